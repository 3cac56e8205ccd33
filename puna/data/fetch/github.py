"""GitHub's repositories one by one, as archives; the paper's whole set is Google BigQuery's.

The archives are made when asked for: no size, no hash, no resuming; their gzip is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from puna.data.fetch.listing import Choice, Listed, Lists, address, lines, require_name
from puna.download import Wanted
from puna.errors import UsageError

_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.+/-]+))?", re.ASCII)
LICENCES = ("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause")
QUERY = f"""SELECT files.repo_name, files.path, licenses.license, contents.content
FROM `bigquery-public-data.github_repos.files` AS files
JOIN `bigquery-public-data.github_repos.licenses` AS licenses USING (repo_name)
JOIN `bigquery-public-data.github_repos.contents` AS contents USING (id)
WHERE licenses.license IN ({", ".join(f"'{one}'" for one in LICENCES)})
  AND NOT contents.binary AND contents.content IS NOT NULL"""


def by_hand(choice: Choice) -> str | None:
    """BigQuery's query and commands; None where repositories are named."""
    if choice.items or choice.list_at:
        return None
    return f"""The paper took Google BigQuery's set of GitHub, by licence. Save as github.sql:

{QUERY}

Google bills each query by the bytes that it reads, here terabytes; --dry_run says how many.
With an account of Google's, a project, a data set and a bucket of yours:

  bq query --use_legacy_sql=false --dry_run < github.sql
  bq query --use_legacy_sql=false --destination_table=DATASET.code < github.sql
  bq extract --destination_format=NEWLINE_DELIMITED_JSON --compression=GZIP \\
      DATASET.code 'gs://BUCKET/code-*.json.gz'
  gsutil -m cp 'gs://BUCKET/code-*.json.gz' raw/

Or name repositories: puna data fetch github OWNER/NAME OWNER/NAME@TAG --out raw,
or --list FILE with one a line."""


def list_files(choice: Choice, lists: Lists) -> Iterator[Listed]:
    """The archive of each repository named, or in the list, as OWNER_NAME.tar.gz.

    Raises UsageError for what is no repository's name.
    """
    place = choice.list_at or "the command line"
    listed = lines(lists.read(place), place) if choice.list_at else []
    for text in [*choice.items, *(line.strip() for line in listed)]:
        if not text or text.startswith("#"):
            continue
        match = _REPOSITORY.fullmatch(text)
        if match is None:
            raise UsageError(
                f"a repository is OWNER/NAME or OWNER/NAME@REVISION, got {text[:100]!r} in {place}"
            )
        repository, revision = match[1], match[2] or "HEAD"
        suffix = f"@{revision.replace('/', '+')}" if match[2] else ""
        url = address(choice.base, repository, "archive", f"{revision}.tar.gz")
        name = require_name(f"{repository.replace('/', '_')}{suffix}.tar.gz", place)
        yield Listed(name, Wanted(url), is_gzip=True)
