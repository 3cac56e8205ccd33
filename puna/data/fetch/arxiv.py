"""arXiv's sources: monthly tars on Amazon S3, where who asks pays; a manifest has sizes and MD5.

Each address is signed with the user's own key (s3fs), then brought as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from puna.console import human_bytes
from puna.data.fetch.listing import (
    Choice,
    Listed,
    Lists,
    number,
    require_items,
    require_name,
    xml_rows,
)
from puna.download import Wanted
from puna.errors import MachineError

MANIFEST = "src/arXiv_src_manifest.xml"
REGION = "us-east-1"
PAYS = {"x-amz-request-payer": "requester"}  # a part of what is signed
SIGNED_SECONDS = 6 * 3600  # that an address works; the same command signs anew
DOLLARS_A_GIGABYTE = 0.09  # Amazon's list price out of us-east-1 for the first 10 TB a month

Sign = Callable[[str], str]


def by_hand(choice: Choice) -> str | None:
    """What to type where nobody said who pays; None where it was said.

    Raises UsageError for a malformed month.
    """
    if choice.pays:
        return None
    month = (*_months(choice), "2301")[0]
    return f"""arXiv's sources lie on Amazon S3 in {REGION}, and who asks pays the transfer: about
${DOLLARS_A_GIGABYTE} a GB out of Amazon, less inside it; Amazon's price list decides.
With an account of Amazon's and its keys on this machine:

  pip install s3fs
  puna data fetch arxiv {month} --out raw --pay --dry-run     what it is, and what it costs
  puna data fetch arxiv {month} --out raw --pay               {month}; all months if none is named

or by Amazon's own command:

  aws s3 cp s3://{choice.base}/{MANIFEST} . --request-payer requester
  aws s3 cp s3://{choice.base}/src/ raw --recursive --exclude '*' \\
      --include 'arXiv_src_{month}_*.tar' --request-payer requester"""


def list_files(choice: Choice, lists: Lists) -> Iterator[Listed]:
    """The tars of the months asked for (yymm), of all months if none is.

    Raises UsageError for a malformed month, MachineError without s3fs or keys.
    """
    months = _months(choice)
    sign = partial(_signed, choice.base)
    place = choice.list_at or sign(MANIFEST)
    shown = choice.list_at or MANIFEST
    for row in xml_rows(lists.read(place, PAYS), "file", shown):
        if not months or row.get("yymm") in months:
            path = require_name(row.get("filename", ""), shown)
            size = number(row.get("size"))
            wanted = Wanted(sign(path), md5=row.get("md5sum"), size=size, headers=PAYS)
            yield Listed(path.rpartition("/")[2], wanted)


def _months(choice: Choice) -> tuple[str, ...]:
    """The months asked for; () for all. Raises UsageError for a malformed one."""
    hint = "puna data fetch arxiv 2301 --out raw --pay"
    wanted = r"\d\d(0[1-9]|1[0-2])"
    return require_items(choice, wanted, "a month as yymm", hint) if choice.items else ()


def cost(total_bytes: int) -> str:
    """What so many bytes may cost."""
    dollars = total_bytes / 1e9 * DOLLARS_A_GIGABYTE
    return f"{human_bytes(total_bytes)} at ${DOLLARS_A_GIGABYTE} a GB: about ${dollars:,.2f}"


def _signed(bucket: str, path: str) -> str:
    """An https address of a file, for which the owner of this machine's keys pays."""
    if "://" in bucket:
        return f"{bucket.rstrip('/')}/{path}"
    try:
        import fsspec

        system = fsspec.filesystem(
            "s3",
            requester_pays=True,
            client_kwargs={"region_name": REGION},
            config_kwargs={"signature_version": "s3v4"},
        )
    except ImportError as error:
        raise MachineError(f"arXiv on Amazon S3: {error}", hint="pip install s3fs") from None
    try:
        return str(
            system.sign(f"{bucket}/{path}", expiration=SIGNED_SECONDS, RequestPayer="requester")
        )
    except Exception as error:  # botocore's and aiohttp's, whatever is wrong with the keys
        raise MachineError(
            f"s3://{bucket}/{path} cannot be signed: {type(error).__name__}: {error}",
            hint="are there keys of Amazon's on this machine? aws configure",
        ) from None
