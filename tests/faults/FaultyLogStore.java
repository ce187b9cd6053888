package faults;

import io.delta.storage.HDFSLogStore;
import java.io.IOException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.Iterator;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;

/**
 * Delta's own log store for a local disk, which can be told to stop, to lie or to dawdle at a commit.
 *
 * System property faults.at is "TABLE POINT": files (before the commit), commit (after it), lost (the commit lands, the
 * caller gets an error) or gap (look whether the commit is there, say so, wait, then write it: the check-then-rename of
 * the store it extends, with five seconds between the two, for another JVM takes seconds to its own look on a machine
 * that has other work).
 */
public class FaultyLogStore extends HDFSLogStore {
  public FaultyLogStore(Configuration conf) {
    super(conf);
  }

  @Override
  public void write(Path path, Iterator<String> actions, Boolean overwrite, Configuration conf) throws IOException {
    String[] fault = System.getProperty("faults.at", "none none").split(" ");
    boolean commit = !overwrite && path.getName().endsWith(".json");
    if (!commit || !fault[0].equals(path.getParent().getParent().getName())) {
      super.write(path, actions, overwrite, conf);
      return;
    }
    if (fault[1].equals("files")) {
      sayReached();
      sleep(Long.MAX_VALUE);
    }
    if (fault[1].equals("gap")) {
      if (path.getFileSystem(conf).exists(path)) throw new FileAlreadyExistsException(path.toString());
      sayReached();
      sleep(5000);
      super.write(path, actions, true, conf);
      return;
    }
    super.write(path, actions, false, conf);
    if (fault[1].equals("commit")) {
      sayReached();
      sleep(Long.MAX_VALUE);
    }
    if (fault[1].equals("lost")) {
      System.setProperty("faults.at", "none none");
      throw new IOException("the reply was lost");
    }
  }

  private static void sayReached() throws IOException {
    Files.createFile(Paths.get(System.getProperty("faults.reached")));
  }

  private static void sleep(long milliseconds) {
    try {
      Thread.sleep(milliseconds);
    } catch (InterruptedException error) {
      throw new IllegalStateException(error);
    }
  }
}
