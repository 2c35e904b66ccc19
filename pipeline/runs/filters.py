"""The columns of the index that a query uses."""

from db.filters import columns_in


def used_columns(where: str | None, sort: str | None) -> list[str]:
    """The columns that a filter and an order name, for example `where="gini > 0.5"` and `sort="-entropy"`.

    Raises:
        UsageError: the filter does not parse.
    """
    return [*columns_in(where or ""), *([sort.lstrip("-")] if sort else [])]
