"""A contract as a Great Expectations suite, and that suite run over rows.

Great Expectations takes seconds to import, so it is imported when a suite is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from schemas.contract import Between, Holds, OneOf, Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def expectations(table: Table, *, least_rows: int = 1) -> list[Any]:
    """The rules of a table: rows there, no NULL where none may be, keys once, every check of the contract."""
    import great_expectations.expectations as gxe

    rules: list[Any] = [gxe.ExpectTableRowCountToBeBetween(min_value=least_rows)]
    rules += [gxe.ExpectColumnValuesToNotBeNull(column=c.name) for c in table.columns if not c.nullable]
    keys = [name for name in table.key if name not in table.partition] or list(table.key)
    if len(keys) > 1:
        rules.append(gxe.ExpectCompoundColumnsToBeUnique(column_list=keys))
    elif keys:
        rules.append(gxe.ExpectColumnValuesToBeUnique(column=keys[0]))
    for check in table.checks:
        if isinstance(check, Between):
            rules.append(
                gxe.ExpectColumnValuesToBeBetween(column=check.column, min_value=check.low, max_value=check.high)
            )
        elif isinstance(check, OneOf):
            rules.append(gxe.ExpectColumnValuesToBeInSet(column=check.column, value_set=list(check.values)))
    for name, check in _conditions(table).items():
        rules.append(
            gxe.ExpectColumnValuesToBeInSet(column=name, value_set=[True], description=check.doc, notes=check.doc)
        )
    return rules


def _conditions(table: Table) -> dict[str, Holds]:
    """Row conditions by the column that says whether each holds: answered in the pass of the other rules."""
    return {f"rule_{number}": check for number, check in enumerate(table.checks, 1) if isinstance(check, Holds)}


class Validation(NamedTuple):
    """What a suite found."""

    broken: list[str]
    """The rules broken, in words; empty where all hold."""
    page: str
    """All rules with their outcomes, as an HTML page (Great Expectations' Data Docs)."""


def validate(rows: DataFrame, table: Table, *, least_rows: int = 1) -> Validation:
    """Run the suite of a contract over rows.

    `rows` should be one partition, since keys are checked without the partition columns.
    """
    import great_expectations as gx
    from great_expectations.core import ExpectationSuite
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView
    from pyspark.sql import functions as F

    rows = rows.withColumns({name: F.expr(check.sql) for name, check in _conditions(table).items()})
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    suite = context.suites.add(
        ExpectationSuite(name=table.name, expectations=expectations(table, least_rows=least_rows))
    )
    # The caller has kept the rows. What Great Expectations kept would outlive it, and answer for a table that changed.
    batches = context.data_sources.add_spark(name="staged", persist=False).add_dataframe_asset(name=table.name)
    definition = batches.add_batch_definition_whole_dataframe("partition")
    validation = context.validation_definitions.add(
        gx.ValidationDefinition(name=table.name, data=definition, suite=suite)
    )
    result = validation.run(batch_parameters={"dataframe": rows}, result_format="BOOLEAN_ONLY")
    broken = [_in_words(table, entry) for entry in result.results if not entry.success]
    page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))  # type: ignore[no-untyped-call]
    return Validation(broken, str(page))


def _in_words(table: Table, entry: Any) -> str:
    rule = entry.expectation_config
    arguments = {k: v for k, v in rule.kwargs.items() if k not in ("batch_id", "result_format") and v is not None}
    error = next((info.get("exception_message") for info in _exceptions(entry.exception_info)), None)
    what = rule.description or f"{rule.type} {arguments}"
    return f"{table.name}: {what}" + (f" ({error})" if error else "")


def _exceptions(info: dict[str, Any] | None) -> list[dict[str, Any]]:
    entries = [info or {}, *[value for value in (info or {}).values() if isinstance(value, dict)]]
    return [entry for entry in entries if entry.get("raised_exception")]
