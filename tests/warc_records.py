"""WARC records written by hand."""

import gzip


def record(kind: str, body: bytes, number: int = 1, *, content_type: str = "") -> bytes:
    """One WARC record with the id `id-NUMBER`."""
    content_type = content_type or "application/http; msgtype=response"
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:id-{number}>\r\n"
        f"WARC-Target-URI: http://example.org/{number}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


def members(*records: bytes) -> bytes:
    """Records as a crawl has them: each a gzip member of its own."""
    return b"".join(map(gzip.compress, records))
