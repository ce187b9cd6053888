"""How often each thing happens in a simulated log; what the rates mean is in `docs/simulation.md`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SimulatorRates:
    """Every rate of the simulator; shares are in [0, 1].

    Raises:
        ValueError: naming every rate outside its range.
    """

    semantic_share: float = 0.35  # result slots filled by the semantic source
    synonym_share: float = 0.3  # phrases said in another word, where one is known
    typo_share: float = 0.06  # queries with a typo
    zipf: float = 0.65  # exponent of query traffic by rank
    examined: float = 0.6  # a position p is looked at with probability p ** -examined
    attraction: tuple[float, float, float, float] = (0.02, 0.08, 0.32, 0.65)  # click when looked at, by grade 0..3
    cart: tuple[float, float, float, float] = (0.005, 0.02, 0.06, 0.12)  # cart after click, by grade
    purchase: float = 0.35  # purchase after cart
    robots_a_day: int = 1  # robot visits each day
    robot_searches: int = 200  # searches of one robot visit, in expectation; it clicks everything
    duplicate_share: float = 0.01  # events delivered twice
    late_share: float = 0.02  # searches whose events arrive one to three days later (see `with_arrival`)
    broken_share: float = 0.005  # searches beside which one broken row is logged

    def __post_init__(self) -> None:
        shares = {
            name: getattr(self, name)
            for name in (
                "semantic_share",
                "synonym_share",
                "typo_share",
                "purchase",
                "duplicate_share",
                "late_share",
                "broken_share",
            )
        }
        shares |= {f"attraction[{g}]": p for g, p in enumerate(self.attraction)}
        shares |= {f"cart[{g}]": p for g, p in enumerate(self.cart)}
        problems = [f"{name} is {value}, not in [0, 1]" for name, value in shares.items() if not 0 <= value <= 1]
        if len(self.attraction) != 4 or len(self.cart) != 4:
            problems.append("attraction and cart each need four values, for grades 0 to 3")
        if min(self.zipf, self.examined) < 0 or min(self.robots_a_day, self.robot_searches) < 0:
            problems.append("zipf, examined, robots_a_day and robot_searches are not negative")
        if problems:
            raise ValueError("; ".join(problems) + ".")
