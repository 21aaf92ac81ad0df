"""Where a request ends: no bytes that one reader takes for a body may become a request for another (request smuggling).

A running Pipit gets the bytes on a socket. The shapes follow RFC 9112 and gunicorn's public corpus of valid and invalid
requests. Each one is sent with a request behind it that asks for the connection to be closed, so every conversation
ends, and the statuses alone tell what the server read:

    405  the request under test: a POST to a path that has only GET
    200  a GET of that path
    404  the request that hides in the body, or wherever a wrong reading would find it
    400  a refusal; with it the connection ends

So (405, 200) means that the hidden request was read as a body, (405, 404, 200) that it was a request, and (400,) that
nothing after the malformed request was read at all. A shape lists the readings that RFC 9112 allows.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.front.bridge import MAX_CONTENT_LENGTH
from tests import servers
from tests.front.raw import Answer, Connection, Conversation, talk
from tests.servers import Pipit, wait_until

Reading = tuple[int, ...]  # the statuses of all answers on the connection
Table = dict[str, tuple[str, *tuple[Reading, ...]]]

POST = "POST /healthz HTTP/1.1\r\nHost: a\r\n"
OLD_POST = "POST /healthz HTTP/1.0\r\nHost: a\r\n"
LOGIN = "POST /login HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
LAST = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HIDDEN = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
N = len(HIDDEN)
CHUNK = f"{N:x}\r\n{HIDDEN}\r\n"
NOTHING = "0\r\n\r\n"  # a chunked body without a byte in it

REFUSED = (400,)
NOT_IMPLEMENTED = (501,)  # RFC 9112, section 6.1: a transfer coding that the server doesn't know
WRONG_VERSION = (505,)  # RFC 9110, section 15.6.6
TOO_LARGE = (413,)
HEAD_TOO_LARGE = (431,)
TARGET_TOO_LONG = (414,)
AS_BODY = (405, 200)
AS_REQUEST = (405, 404, 200)
ANSWERED_AND_CLOSED = (405,)  # the server may end a connection after any answer (RFC 9112, section 9.6)
ONE_GET = (200,)
TWO_GETS = (200, 200)
THREE_GETS = (200, 404, 200)
NOT_FOUND = (404, 200)  # of a target that is odd, but ends where it seems to end


# Fields of a POST; the hidden request is all that follows.
LENGTHS: Table = {
    "neither length nor chunks, so no body": ("X: y", AS_REQUEST),
    "a length of 0": ("Content-Length: 0", AS_REQUEST),
    "a length": (f"Content-Length: {N}", AS_BODY),
    "a length with leading zeros": (f"Content-Length: 000{N}", AS_BODY),
    "a length in lower case": (f"content-length: {N}", AS_BODY),
    "a length without a space": (f"Content-Length:{N}", AS_BODY),
    "a length amid tabs and spaces": (f"Content-Length: \t {N} \t ", AS_BODY),
    "a length that Connection names": (f"Connection: Content-Length\r\nContent-Length: {N}", AS_BODY),
    "a length and TE": (f"TE: trailers, chunked\r\nContent-Length: {N}", AS_BODY),
    "a length and an expectation": (f"Expect: 100-continue\r\nContent-Length: {N}", AS_BODY, (100, *AS_BODY)),
    "a length and an unknown expectation": (f"Expect: tea\r\nContent-Length: {N}", AS_BODY, (417,), REFUSED),
    "a length and an upgrade to WebSocket": (
        f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nContent-Length: {N}",
        AS_BODY,
        ANSWERED_AND_CLOSED,
        REFUSED,
    ),
    "a length and an upgrade to HTTP/2": (
        f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: {N}",
        AS_BODY,
        ANSWERED_AND_CLOSED,
        REFUSED,
    ),
    "the same length twice": (f"Content-Length: {N}\r\nContent-Length: {N}", REFUSED, AS_BODY),
    "the same length as a list": (f"Content-Length: {N}, {N}", REFUSED, AS_BODY),
    "two lengths, the first is 0": (f"Content-Length: 0\r\nContent-Length: {N}", REFUSED),
    "two lengths, the second is 0": (f"Content-Length: {N}\r\nContent-Length: 0", REFUSED),
    "two lengths that are written differently": (f"Content-Length: {N}\r\ncontent-length: 0{N}", REFUSED, AS_BODY),
    "two lengths as a list": (f"Content-Length: {N}, 0", REFUSED),
    "a list that ends in a comma": (f"Content-Length: {N},", REFUSED),
    "a list that begins with a comma": (f"Content-Length: ,{N}", REFUSED),
    "a length with a plus sign": (f"Content-Length: +{N}", REFUSED),
    "a length below 0": (f"Content-Length: -{N}", REFUSED),
    "a length of minus 0": ("Content-Length: -0", REFUSED),
    "a length in hexadecimal": (f"Content-Length: 0x{N:x}", REFUSED),
    "a length with hexadecimal digits": ("Content-Length: 1f", REFUSED),
    "a length with a fraction": (f"Content-Length: {N}.0", REFUSED),
    "a length with an exponent": ("Content-Length: 1e1", REFUSED),
    "a length with an underscore": ("Content-Length: 3_3", REFUSED),
    "a length with a space in it": ("Content-Length: 3 3", REFUSED),
    "a length in quotes": (f'Content-Length: "{N}"', REFUSED),
    "a length with a parameter": (f"Content-Length: {N};x=y", REFUSED),
    "a length in superscript": ("Content-Length: \xb3\xb3", REFUSED),
    "a length after a no-break space": (f"Content-Length: \xa0{N}", REFUSED),
    "a length after a vertical tab": (f"Content-Length: \x0b{N}", REFUSED),
    "a length after a form feed": (f"Content-Length: \x0c{N}", REFUSED),
    "a length before a vertical tab": (f"Content-Length: {N}\x0b", REFUSED),
    "a length before a NUL": (f"Content-Length: {N}\x00", REFUSED),
    "an empty length": ("Content-Length:", REFUSED),
    "a length of spaces": ("Content-Length:   ", REFUSED),
    "a length in words": ("Content-Length: many", REFUSED),
    "a length beyond 64 bits": (f"Content-Length: {2**64 + N}", REFUSED, TOO_LARGE),
    "a length beyond 32 bits": (f"Content-Length: {2**32 + N}", REFUSED, TOO_LARGE, ANSWERED_AND_CLOSED),
    "a length of 300 digits": (f"Content-Length: {'9' * 300}", REFUSED, TOO_LARGE),
    "a space between Content-Length and its colon": (f"Content-Length : {N}", REFUSED),
    "a tab between Content-Length and its colon": (f"Content-Length\t: {N}", REFUSED),
    "a NUL between Content-Length and its colon": (f"Content-Length\x00: {N}", REFUSED),
    "a CR between Content-Length and its colon": (f"Content-Length\r: {N}", REFUSED),
    "Content-Length without a colon": (f"Content-Length {N}", REFUSED),
    "Content_Length, which is another field": (f"Content_Length: {N}", AS_REQUEST, REFUSED),
    "Content_Length beside a true length": (f"Content_Length: 0\r\nContent-Length: {N}", AS_BODY, REFUSED),
    "a name that continues in Latin-1": (f"Content-Length\xdf: 0\r\nContent-Length: {N}", REFUSED),
    "a length on a folded line": (f"X: y\r\n Content-Length: {N}", REFUSED, AS_REQUEST),
    "a length on a line folded with a tab": (f"X: y\r\n\tContent-Length: {N}", REFUSED, AS_REQUEST),
    "a length whose value is folded": (f"Content-Length:\r\n {N}", REFUSED, AS_BODY),
    "a length after a bare CR": (f"X: y\rContent-Length: {N}", REFUSED),
    "a length after a bare LF": (f"X: y\nContent-Length: {N}", REFUSED, AS_BODY),
    "a length after a CR too many": (f"X: y\r\r\nContent-Length: {N}", REFUSED),
    "a length after a NUL": (f"X: y\x00Content-Length: {N}", REFUSED),
    "a length in the value of another field": (f"X: Content-Length: {N}", AS_REQUEST),
}

# Fields of a POST; an empty chunked body and the hidden request follow, which a length of M covers.
M = len(NOTHING + HIDDEN)
CODINGS: Table = {
    "chunks": ("Transfer-Encoding: chunked", AS_REQUEST),
    "chunks in capitals": ("TRANSFER-ENCODING: CHUNKED", AS_REQUEST),
    "chunks without a space": ("Transfer-Encoding:chunked", AS_REQUEST),
    "chunks after a tab": ("Transfer-Encoding: \tchunked", AS_REQUEST),
    "chunks before spaces": ("Transfer-Encoding: chunked \t ", AS_REQUEST, REFUSED),  # llhttp wants none there
    "chunks that Connection names": ("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", AS_REQUEST),
    "chunks and a length of 0": ("Transfer-Encoding: chunked\r\nContent-Length: 0", REFUSED, ANSWERED_AND_CLOSED),
    "a length and chunks": (f"Content-Length: {M}\r\nTransfer-Encoding: chunked", REFUSED, ANSWERED_AND_CLOSED),
    "chunks and a length": (f"Transfer-Encoding: chunked\r\nContent-Length: {M}", REFUSED, ANSWERED_AND_CLOSED),
    "chunks and a short length": ("Transfer-Encoding: chunked\r\nContent-Length: 5", REFUSED, ANSWERED_AND_CLOSED),
    "chunks between two lengths": (
        f"Content-Length: {M}\r\nTransfer-Encoding: chunked\r\nContent-Length: {M}",
        REFUSED,
    ),
    "a length and a coding that isn't chunked": (
        f"Content-Length: {M}\r\nTransfer-Encoding: xchunked",
        REFUSED,
        NOT_IMPLEMENTED,
    ),
    "a length and the coding identity": (
        f"Content-Length: {M}\r\nTransfer-Encoding: identity",
        REFUSED,
        NOT_IMPLEMENTED,
    ),
    "xchunked": ("Transfer-Encoding: xchunked", REFUSED, NOT_IMPLEMENTED),
    "chunkedx": ("Transfer-Encoding: chunkedx", REFUSED, NOT_IMPLEMENTED),
    "chunked and another word": ("Transfer-Encoding: x chunked", REFUSED, NOT_IMPLEMENTED),
    "chunked in quotes": ('Transfer-Encoding: "chunked"', REFUSED, NOT_IMPLEMENTED),
    "chunked with a parameter": ("Transfer-Encoding: chunked;q=1", REFUSED, NOT_IMPLEMENTED),
    "identity alone": ("Transfer-Encoding: identity", REFUSED, NOT_IMPLEMENTED),
    "gzip alone": ("Transfer-Encoding: gzip", REFUSED, NOT_IMPLEMENTED),
    "an empty coding": ("Transfer-Encoding:", REFUSED, NOT_IMPLEMENTED),
    "chunked, then identity": ("Transfer-Encoding: chunked, identity", REFUSED, NOT_IMPLEMENTED),
    "chunked, then gzip": ("Transfer-Encoding: chunked, gzip", REFUSED, NOT_IMPLEMENTED),
    "chunked twice": ("Transfer-Encoding: chunked, chunked", REFUSED, NOT_IMPLEMENTED),
    "identity, then chunked": ("Transfer-Encoding: identity, chunked", REFUSED, NOT_IMPLEMENTED, AS_REQUEST),
    "gzip, then chunked": ("Transfer-Encoding: gzip, chunked", REFUSED, NOT_IMPLEMENTED, AS_REQUEST),
    "gzip, then chunked, without a space": ("Transfer-Encoding: gzip,chunked", REFUSED, NOT_IMPLEMENTED, AS_REQUEST),
    "identity and chunked, both twice": (
        "Transfer-Encoding: identity, chunked, identity, chunked",
        REFUSED,
        NOT_IMPLEMENTED,
    ),
    "a comma before chunked": ("Transfer-Encoding: , chunked", REFUSED, NOT_IMPLEMENTED, AS_REQUEST),
    "a comma after chunked": ("Transfer-Encoding: chunked,", REFUSED, NOT_IMPLEMENTED, AS_REQUEST),
    "chunked after a vertical tab": ("Transfer-Encoding: \x0bchunked", REFUSED, NOT_IMPLEMENTED),
    "chunked after a form feed": ("Transfer-Encoding: \x0cchunked", REFUSED, NOT_IMPLEMENTED),
    "chunked before a vertical tab": ("Transfer-Encoding: chunked\x0b", REFUSED, NOT_IMPLEMENTED),
    "chunked after a no-break space": ("Transfer-Encoding: \xa0chunked", REFUSED, NOT_IMPLEMENTED),
    "chunked before a NUL": ("Transfer-Encoding: chunked\x00", REFUSED),
    "chunked after a vertical tab in a list": ("Transfer-Encoding: identity, \x0bchunked", REFUSED, NOT_IMPLEMENTED),
    "chunked on two lines": (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        REFUSED,
        NOT_IMPLEMENTED,
    ),
    "chunked on one line, identity on the next": (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        REFUSED,
        NOT_IMPLEMENTED,
    ),
    "identity on one line, chunked on the next": (
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        REFUSED,
        NOT_IMPLEMENTED,
        AS_REQUEST,
    ),
    "chunked on one line, nonsense on the next": (
        "Transfer-Encoding: chunked\r\ntransfer-encoding: x",
        REFUSED,
        NOT_IMPLEMENTED,
    ),
    "Transfer_Encoding, which is another field": ("Transfer_Encoding: chunked", REFUSED, (405, 400)),
    "Transfer_Encoding and a length": (f"Transfer_Encoding: chunked\r\nContent-Length: {M}", REFUSED, AS_BODY),
    "Transfer_Encoding beside true chunks": (
        "Transfer_Encoding: gzip\r\nTransfer-Encoding: chunked",
        REFUSED,
        AS_REQUEST,
    ),
    "a space between Transfer-Encoding and its colon": ("Transfer-Encoding : chunked", REFUSED),
    "a tab between Transfer-Encoding and its colon": ("Transfer-Encoding\t: chunked", REFUSED),
    "a vertical tab between Transfer-Encoding and its colon": ("Transfer-Encoding\x0b: chunked", REFUSED),
    "a NUL between Transfer-Encoding and its colon": ("Transfer-Encoding\x00: chunked", REFUSED),
    "a line end between Transfer-Encoding and its colon": ("Transfer-Encoding\r\n : chunked", REFUSED),
    "a space between the colon of a length and chunks": (
        f"Content-Length: {M}\r\nTransfer-Encoding : chunked",
        REFUSED,
    ),
    "Transfer-Encoding after a space": ("X: y\r\n Transfer-Encoding: chunked", REFUSED, (405, 400)),
    "Transfer-Encoding whose value is folded": ("Transfer-Encoding:\r\n chunked", REFUSED, AS_REQUEST),
    "Transfer-Encoding folded within its value": (
        "Transfer-Encoding: chunked\r\n , identity",
        REFUSED,
        NOT_IMPLEMENTED,
    ),
    "Transfer-Encoding after a bare CR": ("X: y\rTransfer-Encoding: chunked", REFUSED),
    "Transfer-Encoding after a bare LF": ("X: y\nTransfer-Encoding: chunked", REFUSED, AS_REQUEST),
    "a bare LF within Transfer-Encoding": ("Transfer-Encoding:\nchunked", REFUSED),
}

# Chunked bodies of a POST.
TOO_MUCH = "y" * MAX_CONTENT_LENGTH
CHUNKS: Table = {
    "a chunk": (f"{CHUNK}{NOTHING}", AS_BODY),
    "two chunks": (f"5\r\nhello\r\n{CHUNK}{NOTHING}", AS_BODY),
    "a chunk, then a request": (f"5\r\nhello\r\n{NOTHING}{HIDDEN}", AS_REQUEST),
    "a size in capitals": (f"A\r\n0123456789\r\n{CHUNK}{NOTHING}", AS_BODY),
    "a size with leading zeros": (f"000{CHUNK}{NOTHING}", AS_BODY),
    "a last chunk of many zeros": (f"{CHUNK}0000\r\n\r\n", AS_BODY),
    "an extension": (f"{N:x};a=b\r\n{HIDDEN}\r\n{NOTHING}", AS_BODY),
    "an extension without a value": (f"{N:x};a\r\n{HIDDEN}\r\n{NOTHING}", AS_BODY),
    "an extension in quotes": (f'{N:x};a="b c"\r\n{HIDDEN}\r\n{NOTHING}', AS_BODY),
    "an extension of the last chunk": (f"{CHUNK}0;a=b\r\n\r\n", AS_BODY),
    "spaces around an extension": (f"{N:x} ; a = b\r\n{HIDDEN}\r\n{NOTHING}", AS_BODY, REFUSED),
    "a space after the size": (f"{N:x} \r\n{HIDDEN}\r\n{NOTHING}", REFUSED, AS_BODY),
    "a size below 0": (f"-{CHUNK}{NOTHING}", REFUSED),
    "a size with a plus sign": (f"+{CHUNK}{NOTHING}", REFUSED),
    "a size after 0x": (f"0x{CHUNK}{NOTHING}", REFUSED),
    "a size with an underscore": (f"2_1\r\n{HIDDEN}\r\n{NOTHING}", REFUSED),
    "a size with a letter that is no digit": (f"{N:x}g\r\n{HIDDEN}\r\n{NOTHING}", REFUSED),
    "a size after a space": (f" {CHUNK}{NOTHING}", REFUSED),
    "a size after a tab": (f"\t{CHUNK}{NOTHING}", REFUSED),
    "a last chunk after a space": (f"5\r\nhello\r\n 0\r\n\r\n{HIDDEN}", REFUSED),
    "a space after the last chunk": (f"5\r\nhello\r\n0 \r\n\r\n{HIDDEN}", REFUSED, AS_REQUEST),
    "a size with a space in it": (f"2 1\r\n{HIDDEN}\r\n{NOTHING}", REFUSED),
    "a size with a NUL": (f"{N:x}\x00\r\n{HIDDEN}\r\n{NOTHING}", REFUSED),
    "a size with a superscript digit": (f"2\xb9\r\n{HIDDEN}\r\n{NOTHING}", REFUSED),
    "no size": (f"\r\n{HIDDEN}\r\n{NOTHING}", REFUSED),
    "no size but an extension": (f";a=b\r\n{HIDDEN}\r\n{NOTHING}", REFUSED),
    "a size in words": (f"many\r\n{HIDDEN}\r\n{NOTHING}", REFUSED),
    "a size beyond 64 bits": (f"{2**64 + N:x}\r\n{HIDDEN}\r\n{NOTHING}", REFUSED, TOO_LARGE),
    "a size beyond 32 bits": (
        f"{2**32 + N:x}\r\n{HIDDEN}\r\n{NOTHING}{TOO_MUCH}",
        REFUSED,
        TOO_LARGE,
        ANSWERED_AND_CLOSED,
    ),
    "a size of 300 digits": (f"{'F' * 300}\r\n{HIDDEN}\r\n{NOTHING}", REFUSED, TOO_LARGE),
    "a size of 16 digits": (f"{'F' * 16}\r\n{HIDDEN}\r\n{NOTHING}{TOO_MUCH}", REFUSED, TOO_LARGE, ANSWERED_AND_CLOSED),
    "data longer than its size": (f"5\r\n{HIDDEN}\r\n{NOTHING}", REFUSED),
    "data one byte longer than its size": (f"5\r\nhello!\r\n{NOTHING}{HIDDEN}", REFUSED),
    "data shorter than its size": (f"{N + 5:x}\r\n{HIDDEN}\r\n{NOTHING}", REFUSED),
    "data that takes the last chunk in": (f"{N + 7:x}\r\n{HIDDEN}\r\n{NOTHING}", REFUSED),
    "no line end after the data": (f"5\r\nhello{NOTHING}{HIDDEN}", REFUSED),
    "an LF after the data": (f"5\r\nhello\n{NOTHING}{HIDDEN}", REFUSED),
    "a CR after the data": (f"5\r\nhello\r{NOTHING}{HIDDEN}", REFUSED),
    "two bytes that are no line end after the data": (f"5\r\nhelloxx{NOTHING}{HIDDEN}", REFUSED),
    "an LF after the size": (f"{N:x}\n{HIDDEN}\r\n{NOTHING}", REFUSED),
    "a CR after the size": (f"{N:x}\r{HIDDEN}\r\n{NOTHING}", REFUSED),
    "a CR too many after the size": (f"{N:x}\r\r\n{HIDDEN}\r\n{NOTHING}", REFUSED),
    "an LF after the last chunk": (f"5\r\nhello\r\n0\n\r\n{HIDDEN}", REFUSED),
    "an LF in place of the empty line": (f"5\r\nhello\r\n0\r\n\n{HIDDEN}", REFUSED, AS_REQUEST),
    "LF line ends only": (f"5\nhello\n0\n\n{HIDDEN}", REFUSED),
    "no empty line after the last chunk": (f"5\r\nhello\r\n0\r\n{HIDDEN}", REFUSED),
    "an LF that ends an extension": (f"2;\nxx\r\n{N:x}\r\n{NOTHING}{HIDDEN}\r\n{NOTHING}", REFUSED),
    "an LF before an extension": (f"5\n;\r\nhello\r\n{NOTHING}{HIDDEN}", REFUSED),
    "a CR in an extension": (f"5;a=b\rc\r\nhello\r\n{NOTHING}{HIDDEN}", REFUSED),
    "a NUL in an extension": (f"5;a=b\x00\r\nhello\r\n{NOTHING}{HIDDEN}", REFUSED),
    "a control character in an extension": (f"5;a=\x01\r\nhello\r\n{NOTHING}{HIDDEN}", REFUSED),
    "a DEL in an extension": (f"5;a=\x7f\r\nhello\r\n{NOTHING}{HIDDEN}", REFUSED),
    "a line end in an extension's quotes": (f'5;a="\r\nhello\r\n{NOTHING}{HIDDEN}', REFUSED),
    "an extension of a megabyte": (f"5;a={'b' * 1_000_000}\r\nhello\r\n{NOTHING}{HIDDEN}", REFUSED, TOO_LARGE),
}

# What stands between the last chunk and the empty line; the hidden request follows.
TRAILERS: Table = {
    "a trailer": ("X: y", AS_REQUEST),
    "two trailers": ("X: y\r\nZ: z", AS_REQUEST),
    "a trailer Content-Length": (f"Content-Length: {N}", REFUSED, AS_REQUEST),
    "a trailer Transfer-Encoding": ("Transfer-Encoding: chunked", REFUSED, AS_REQUEST),
    "a trailer Transfer-Encoding of nonsense": ("Transfer-Encoding: x", REFUSED, AS_REQUEST),
    "a trailer Host": ("Host: evil", REFUSED, AS_REQUEST),
    "a trailer Connection": ("Connection: close", REFUSED, AS_REQUEST, ANSWERED_AND_CLOSED),
    "a trailer without a colon": ("X", REFUSED),
    "a trailer without a name": (": y", REFUSED),
    "a trailer with a space before its colon": ("X : y", REFUSED),
    "a trailer that is folded": ("X: y\r\n z", REFUSED, AS_REQUEST),
    "a trailer with a NUL": ("X: y\x00", REFUSED),
    "a trailer with a bare CR": ("X: y\rZ: z", REFUSED),
    "a trailer after a bare LF": ("X: y\nZ: z", REFUSED, AS_REQUEST),
    "a trailer of 100 kB": (f"X: {'y' * 100_000}", REFUSED, TOO_LARGE, HEAD_TOO_LARGE),
}

# Lines of a head; each stands between Host and the head's end.
FIELDS: Table = {
    "a field": ("X: y", TWO_GETS),
    "a field without a value": ("X:", TWO_GETS),
    "a field with a value amid tabs and spaces": ("X: \t y \t ", TWO_GETS),
    "a field with Latin-1 in its value": ("X: \xe9", TWO_GETS, REFUSED),
    "a field with every sign a name may have": ("!#$%&'*+-.^_`|~09az: y", TWO_GETS),
    "a field without a colon": ("X", REFUSED),
    "a field without a name": (": y", REFUSED),
    "a field with a space in its name": ("X Y: z", REFUSED),
    "a field with a space before its colon": ("X : y", REFUSED),
    "a field with a parenthesis in its name": ("X(: y", REFUSED),
    "a field with an at sign in its name": ("X@: y", REFUSED),
    "a field with Latin-1 in its name": ("X\xdf: y", REFUSED),
    "a field with a NUL in its name": ("X\x00: y", REFUSED),
    "a field with a NUL in its value": ("X: y\x00z", REFUSED),
    "a field with a control character in its name": ("X\x01: y", REFUSED),
    "a field with a bell in its value": ("X: y\x07", REFUSED, TWO_GETS),
    "a field with a DEL in its value": ("X: y\x7f", REFUSED, TWO_GETS),
    "a field with a bare CR in its value": ("X: y\rz", REFUSED),
    "a field with a bare CR at its end": ("X: y\r", REFUSED),
    "a field on two lines": ("X: y\r\n z", REFUSED, TWO_GETS),
    "a field with an empty folded line": ("X: y\r\n \r\nZ: z", REFUSED, TWO_GETS),
    "a line of one CR": ("\rX: y", REFUSED),
    "an expectation without a body": ("Expect: 100-continue", TWO_GETS, (100, *TWO_GETS)),
    "an upgrade to WebSocket": (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YQ==",
        TWO_GETS,
        ONE_GET,
        REFUSED,
    ),
    "an upgrade to HTTP/2": (
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
        TWO_GETS,
        ONE_GET,
        REFUSED,
    ),
    "a second Host": ("Host: b", REFUSED),
    "the same Host again": ("Host: a", REFUSED),
    "a connection that closes": ("Connection: close", ONE_GET),
    "a connection that closes, in capitals": ("CONNECTION: CLOSE", ONE_GET),
    "a connection that closes, in a list": ("Connection: x, close", ONE_GET),
    "a connection that closes, on a second line": ("Connection: x\r\nConnection: close", ONE_GET),
    "a connection that closes and stays": ("Connection: keep-alive, close", ONE_GET),
    "a connection that stays": ("Connection: keep-alive", TWO_GETS),
    "a connection with an unknown option": ("Connection: closed", TWO_GETS),
}

# The value of Host.
HOSTS: Table = {
    "a name": ("pipit.example.org", TWO_GETS),
    "a name and a port": ("a:80", TWO_GETS),
    "a name and an empty port": ("a:", TWO_GETS, REFUSED),
    "an IPv4 address": ("127.0.0.1:8000", TWO_GETS),
    "an IPv6 address": ("[::1]:8000", TWO_GETS),
    "nothing": ("", TWO_GETS, REFUSED),
    "upper case": ("PIPIT.example.ORG", TWO_GETS),
    "a dot at its end": ("pipit.example.org.", TWO_GETS),
    "a label of 63 characters": ("a" * 63, TWO_GETS),
    "a label of 64 characters": ("a" * 64, REFUSED),
    "an empty label": ("a..b", REFUSED),
    "only a dot": (".", REFUSED),
    "an underscore": ("h_h", REFUSED),
    "an IPv6 address that is none": ("[:::::]", REFUSED),
    "an IPv4 address in brackets": ("[1.2.3.4]", REFUSED),
    "too large a port": ("a:65536", REFUSED),
    "a hyphen first": ("-a.example.org", REFUSED),
    "too many characters": ("a." * 130 + "a", REFUSED),
    "two words": ("a b", REFUSED),
    "a list": ("a, b", REFUSED),
    "a slash": ("a/b", REFUSED),
    "a backslash": ("a\\b", REFUSED),
    "a user": ("user@a", REFUSED),
    "a question mark": ("a?b", REFUSED),
    "a number sign": ("a#b", REFUSED),
    "a bracket": ("a<b", REFUSED),
    "a quote": ('a"b', REFUSED),
    "a control character": ("a\x01", REFUSED),
    "a NUL": ("a\x00b", REFUSED),
    "a vertical tab": ("a\x0b", REFUSED),
    "Latin-1": ("\xe9", REFUSED),
    "a port in words": ("a:http", REFUSED),
    "two ports": ("a:80:80", REFUSED),
    "an IPv6 address that isn't closed": ("[::1", REFUSED),
    "a scheme": ("http://a", REFUSED),
}

# A request's first line.
FIRST_LINES: Table = {
    "a GET": ("GET /healthz HTTP/1.1", TWO_GETS),
    "a query": ("GET /healthz?a=b&c HTTP/1.1", TWO_GETS),
    "a method in lower case": ("get /healthz HTTP/1.1", REFUSED, NOT_IMPLEMENTED, AS_BODY),
    "an unknown method": ("TEA /healthz HTTP/1.1", REFUSED, NOT_IMPLEMENTED, AS_BODY),
    "a method with a colon": ("GET: /healthz HTTP/1.1", REFUSED),
    "a method with a NUL": ("GET\x00 /healthz HTTP/1.1", REFUSED),
    "a method with Latin-1": ("GET\xdf /healthz HTTP/1.1", REFUSED),
    "a method with a parenthesis": ("G(T /healthz HTTP/1.1", REFUSED),
    "a method that begins with a hyphen": ("-GET /healthz HTTP/1.1", REFUSED, NOT_IMPLEMENTED, AS_BODY),
    "a method of 300 letters": (f"{'G' * 300} /healthz HTTP/1.1", REFUSED, NOT_IMPLEMENTED, AS_BODY),
    "no method": ("/healthz HTTP/1.1", REFUSED),
    "a space before the method": (" GET /healthz HTTP/1.1", REFUSED),
    "no target": ("GET HTTP/1.1", REFUSED),
    "an empty target": ("GET  HTTP/1.1", REFUSED),
    "two spaces before the target": ("GET  /healthz HTTP/1.1", REFUSED, TWO_GETS),
    "two spaces after the target": ("GET /healthz  HTTP/1.1", REFUSED, TWO_GETS),
    "a tab before the target": ("GET\t/healthz HTTP/1.1", REFUSED, TWO_GETS),
    "a tab after the target": ("GET /healthz\tHTTP/1.1", REFUSED, TWO_GETS),
    "a vertical tab before the target": ("GET\x0b/healthz HTTP/1.1", REFUSED),
    "a space in the target": ("GET /heal thz HTTP/1.1", REFUSED),
    "another version in the target": ("GET /healthz HTTP/1.1 HTTP/1.1", REFUSED),
    "a tab in the target": ("GET /heal\tthz HTTP/1.1", REFUSED),
    "a NUL in the target": ("GET /healthz\x00 HTTP/1.1", REFUSED),
    "a CR in the target": ("GET /heal\rthz HTTP/1.1", REFUSED),
    "a control character in the target": ("GET /healthz\x01 HTTP/1.1", REFUSED, NOT_FOUND),
    "Latin-1 in the target": ("GET /healthz\xe9 HTTP/1.1", REFUSED, NOT_FOUND),
    "a fragment in the target": ("GET /healthz#a HTTP/1.1", REFUSED, TWO_GETS, NOT_FOUND),
    "a relative target": ("GET healthz HTTP/1.1", REFUSED),
    "a target of two slashes": ("GET //healthz HTTP/1.1", TWO_GETS, NOT_FOUND, (308, 200), REFUSED),
    "an absolute target": ("GET http://a/healthz HTTP/1.1", TWO_GETS),
    "an absolute target of another host": ("GET http://evil/healthz HTTP/1.1", TWO_GETS, REFUSED),
    "an absolute target with a user": ("GET http://user@a/healthz HTTP/1.1", REFUSED, TWO_GETS),
    "an absolute target without a host": ("GET http:///healthz HTTP/1.1", REFUSED),
    "an absolute target with a bad port": ("GET http://a:b/healthz HTTP/1.1", REFUSED),
    "a target of every resource": ("OPTIONS * HTTP/1.1", (404, 200), TWO_GETS, (204, 200), (405, 200), REFUSED),
    "a GET of every resource": ("GET * HTTP/1.1", REFUSED, (404, 200)),
    "a GET of an authority": ("GET a:80 HTTP/1.1", REFUSED),
    "a tunnel": ("CONNECT a:443 HTTP/1.1", REFUSED, NOT_IMPLEMENTED, AS_BODY, (404, 200), (405,)),
    "a tunnel to a path": ("CONNECT /healthz HTTP/1.1", REFUSED, NOT_IMPLEMENTED, AS_BODY, (405,)),
    "no version": ("GET /healthz", REFUSED),
    "HTTP/0.9": ("GET /healthz HTTP/0.9", REFUSED, WRONG_VERSION),
    "HTTP/1.2": ("GET /healthz HTTP/1.2", TWO_GETS, REFUSED, WRONG_VERSION),
    "HTTP/2.0": ("GET /healthz HTTP/2.0", REFUSED, WRONG_VERSION),
    "HTTP/3": ("GET /healthz HTTP/3", REFUSED, WRONG_VERSION),
    "a version in lower case": ("GET /healthz http/1.1", REFUSED),
    "a version of one digit": ("GET /healthz HTTP/1", REFUSED),
    "a version of three digits": ("GET /healthz HTTP/1.10", REFUSED),
    "a version with a leading zero": ("GET /healthz HTTP/01.1", REFUSED),
    "a version of a hundred digits": (f"GET /healthz HTTP/{'1' * 100}.1", REFUSED),
    "a version with a comma": ("GET /healthz HTTP/1,1", REFUSED),
    "a version with a space in it": ("GET /healthz HTTP /1.1", REFUSED),
    "a version after which a space comes": ("GET /healthz HTTP/1.1 ", REFUSED, TWO_GETS),
    "a version with a sign": ("GET /healthz HTTP/+1.1", REFUSED),
    "the version of HTTPS": ("GET /healthz HTTPS/1.1", REFUSED),
    "the version of RTSP": ("GET /healthz RTSP/1.0", REFUSED, ONE_GET),  # llhttp takes it for HTTP/1.0, which closes
    "a method and the version of RTSP": ("DESCRIBE /healthz RTSP/1.0", REFUSED, ANSWERED_AND_CLOSED),
    "a method and the version of Icecast": ("SOURCE /healthz ICE/1.0", REFUSED, ANSWERED_AND_CLOSED),
    "a PROXY line": ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /healthz HTTP/1.1", REFUSED),
}

# Everything ahead of the last request.
WHOLE: Table = {
    "a GET, then another": (f"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n{HIDDEN}", THREE_GETS),
    "a GET with a body": (
        f"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {N}\r\n\r\n{HIDDEN}",
        TWO_GETS,
        REFUSED,
    ),
    "a GET with a chunked body": (
        f"GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNK}{NOTHING}",
        TWO_GETS,
        REFUSED,
    ),
    "a DELETE with a body": (f"DELETE /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {N}\r\n\r\n{HIDDEN}", AS_BODY),
    "a PUT with a body": (f"PUT /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {N}\r\n\r\n{HIDDEN}", AS_BODY),
    "an OPTIONS with a body": (
        f"OPTIONS /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {N}\r\n\r\n{HIDDEN}",
        TWO_GETS,
    ),
    "a request without Host": ("GET /healthz HTTP/1.1\r\n\r\n", REFUSED),
    "a request without Host but with a body": (
        f"POST /healthz HTTP/1.1\r\nContent-Length: {N}\r\n\r\n{HIDDEN}",
        REFUSED,
    ),
    "an absolute target without Host": ("GET http://a/healthz HTTP/1.1\r\n\r\n", REFUSED),
    "a space before the first field": ("GET /healthz HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n", REFUSED, TWO_GETS),
    "a space before Host": ("GET /healthz HTTP/1.1\r\n Host: a\r\n\r\n", REFUSED),
    "a space before a length that comes first": (
        f"POST /healthz HTTP/1.1\r\n Content-Length: {N}\r\nHost: a\r\n\r\n{HIDDEN}",
        REFUSED,
        AS_REQUEST,
    ),
    "an empty line first": ("\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", TWO_GETS),
    "two empty lines first": ("\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", TWO_GETS, REFUSED),
    "an LF first": ("\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", TWO_GETS, REFUSED),
    "a line end after a body": (
        f"{POST}Content-Length: {N}\r\n\r\n{HIDDEN}\r\n",
        AS_BODY,
        (405, 400),
    ),
    "LF line ends only": ("GET /healthz HTTP/1.1\nHost: a\n\n", TWO_GETS, REFUSED),
    "CR line ends only": ("GET /healthz HTTP/1.1\rHost: a\r\r", REFUSED),
    "an LF after the first line": ("GET /healthz HTTP/1.1\nHost: a\r\n\r\n", TWO_GETS, REFUSED),
    "an LF after the last field": (f"GET /healthz HTTP/1.1\r\nHost: a\n\r\n{HIDDEN}", THREE_GETS, REFUSED),
    "an LF in place of the empty line": (f"GET /healthz HTTP/1.1\r\nHost: a\r\n\n{HIDDEN}", THREE_GETS, REFUSED),
    "two LFs in place of the empty line": (f"GET /healthz HTTP/1.1\r\nHost: a\n\n{HIDDEN}", THREE_GETS, REFUSED),
    "a CR too many before the empty line": (f"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\r\n{HIDDEN}", REFUSED),
    "a CR in place of the empty line": (f"GET /healthz HTTP/1.1\r\nHost: a\r\n\r{HIDDEN}", REFUSED),
    "chunks in HTTP/1.0": (
        f"{OLD_POST}Transfer-Encoding: chunked\r\n\r\n{NOTHING}{HIDDEN}",
        REFUSED,
        ANSWERED_AND_CLOSED,
    ),
    "chunks in HTTP/1.0, on a connection that stays": (
        f"{OLD_POST}Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n{NOTHING}{HIDDEN}",
        REFUSED,
        ANSWERED_AND_CLOSED,
    ),
    "chunks and a length in HTTP/1.0": (
        f"{OLD_POST}Transfer-Encoding: chunked\r\nContent-Length: {M}\r\n\r\n{NOTHING}{HIDDEN}",
        REFUSED,
        ANSWERED_AND_CLOSED,
    ),
    "two lengths in HTTP/1.0": (
        f"{OLD_POST}Content-Length: {N}\r\nContent-Length: 0\r\n\r\n{HIDDEN}",
        REFUSED,
    ),
    "a bad length in HTTP/1.0": (
        f"{OLD_POST}Content-Length: 3_3\r\n\r\n{HIDDEN}",
        REFUSED,
    ),
    "a simple request as in HTTP/0.9": ("GET /healthz\r\n", REFUSED),
    "the preface of HTTP/2": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED, WRONG_VERSION),
    "a TLS handshake": ("\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", REFUSED),
    "zeros": ("\x00" * 64, REFUSED),
    "an answer": ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", REFUSED),
    "a body that a closing request doesn't announce": (
        f"{POST}Connection: close\r\n\r\n{HIDDEN}",
        ANSWERED_AND_CLOSED,
    ),
}


@dataclass(frozen=True)
class Shape:
    """The request under test with what follows it, and the readings that are allowed."""

    name: str
    raw: bytes
    readings: tuple[Reading, ...]


def shapes(group: str, template: str, table: Table) -> list[Shape]:
    return [
        Shape(f"{group}: {name}", (template.replace("...", text) + LAST).encode("latin-1"), tuple(readings))
        for name, (text, *readings) in table.items()
    ]


SHAPES = [
    *shapes("a body with", f"{POST}...\r\n\r\n{HIDDEN}", LENGTHS),
    *shapes("a body in", f"{POST}...\r\n\r\n{NOTHING}{HIDDEN}", CODINGS),
    *shapes("a chunked body with", f"{POST}Transfer-Encoding: chunked\r\n\r\n...", CHUNKS),
    *shapes(
        "a chunked body with", f"{POST}Transfer-Encoding: chunked\r\n\r\n{CHUNK}0\r\n...\r\n\r\n{HIDDEN}", TRAILERS
    ),
    *shapes("a head with", "GET /healthz HTTP/1.1\r\nHost: a\r\n...\r\n\r\n", FIELDS),
    *shapes("a Host with", "GET /healthz HTTP/1.1\r\nHost: ...\r\n\r\n", HOSTS),
    *shapes("a first line with", "...\r\nHost: a\r\n\r\n", FIRST_LINES),
    *shapes("a connection with", "...", WHOLE),
]

FIRST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
SECURITY = ("content-security-policy", "x-content-type-options")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipit]:
    """Run one worker behind one proxy: so it believes X-Request-ID and X-Forwarded-Proto, which shows what it read."""
    folder = tmp_path_factory.mktemp("framing")
    with servers.valkey() as valkey:
        redis_url = f"redis://127.0.0.1:{valkey.port}/0"
        with servers.pipit(folder, redis_url, WEB_CONCURRENCY="1", TRUSTED_PROXIES="1") as running:
            yield running


@pytest.fixture(scope="module")
def port(server: Pipit) -> int:
    return server.port


def check(conversation: Conversation, readings: tuple[Reading, ...]) -> None:
    """Fail unless the conversation is one of the readings, closed, and each answer fit to be sent."""
    said = f"{conversation.statuses}, {'closed' if conversation.closed else 'open'}: {conversation.raw[:2000]!r}"
    assert conversation.statuses in readings, said
    assert conversation.closed, said
    for answer in conversation.answers:
        assert answer.closes == (answer is conversation.last), said
        if answer.status >= 200:
            assert all(answer.field(name) for name in SECURITY), said


# Shapes that a smuggler tries


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_request_ends_in_one_place_or_is_refused(shape: Shape, server: Pipit) -> None:
    """Whether it comes in one piece, behind another request, or byte by byte."""
    check(talk(server.port, shape.raw), shape.readings)
    check(talk(server.port, FIRST + shape.raw), tuple((200, *reading) for reading in shape.readings))
    size = 1 if len(shape.raw) <= 10_000 else 1000
    pieces = (shape.raw[at : at + size] for at in range(0, len(shape.raw), size))
    check(talk(server.port, *pieces), shape.readings)


def test_a_chunked_form_is_read_as_it_was_meant(server: Pipit) -> None:
    """The page that refuses a form shows the text that came with it."""
    whole = f"{LOGIN}Content-Length: 16\r\n\r\nbody=in+one+word"
    chunked = (
        f"{LOGIN}Transfer-Encoding: chunked\r\n\r\n7\r\nbody=in\r\n1\r\n+\r\n8;a=b\r\none+word\r\n0\r\nbody: x\r\n\r\n"
    )
    conversation = talk(server.port, f"{whole}{chunked}{LAST}".encode())
    assert conversation.statuses == (400, 400, 200)  # without a CSRF token
    first, second, _ = conversation.answers
    assert b">in one word<" in first.body
    assert first.body == second.body


@pytest.mark.parametrize("pause", [False, True], ids=["in one piece", "after the head"])
def test_a_trailer_does_not_pass_for_a_field_of_the_head(pause: bool, server: Pipit) -> None:
    """A proxy checks the head and sets its own fields there; trailers it only passes on (RFC 9110, section 6.5.1)."""
    head = f"{POST}Transfer-Encoding: chunked\r\n\r\n"
    rest = f"{CHUNK}0\r\nX-Request-ID: forged\r\nX-Forwarded-Proto: https\r\n\r\n{LAST}"
    conversation = talk(server.port, *([head.encode(), rest.encode()] if pause else [f"{head}{rest}".encode()]))
    check(conversation, (AS_BODY, REFUSED))
    assert conversation.answers[0].field("x-request-id") != "forged"
    assert conversation.answers[0].field("strict-transport-security") is None


# HTTP/1.0, HEAD, and answers without a body


@pytest.mark.parametrize("path", ["/", "/healthz", "/hidden"])
def test_http_1_0_is_answered_without_chunks_and_closed(path: str, server: Pipit) -> None:
    conversation = talk(server.port, f"GET {path} HTTP/1.0\r\n\r\n".encode())
    (answer,) = conversation.answers
    assert conversation.closed
    assert answer.field("transfer-encoding") is None
    assert "keep-alive" not in (answer.field("connection") or "").lower()
    assert answer.body


def test_http_1_0_that_asks_to_stay_is_told_whether_it_may(server: Pipit) -> None:
    one = b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    conversation = talk(server.port, one + b"GET /healthz HTTP/1.0\r\n\r\n")
    stays = "keep-alive" in (conversation.answers[0].field("connection") or "").lower()
    assert conversation.statuses == ((200, 200) if stays else (200,))
    assert conversation.closed


@pytest.mark.parametrize("path", ["/", "/login", "/healthz", "/hidden", "/static/pipit.css"])
def test_head_is_answered_like_get_without_the_body(path: str, server: Pipit) -> None:
    get, head = (f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n" for method in ("GET", "HEAD"))
    conversation = talk(server.port, (get + head + LAST).encode(), methods=("GET", "HEAD", "GET"))
    whole, bare, last = conversation.answers
    assert last.status == 200
    assert bare.status == whole.status
    assert whole.body
    assert bare.field("content-length") == str(len(whole.body))


def test_what_has_not_changed_is_answered_without_a_body(server: Pipit) -> None:
    get = "GET / HTTP/1.1\r\nHost: a\r\n"
    etag = talk(server.port, f"{get}Connection: close\r\n\r\n".encode()).last.field("etag")
    again = talk(server.port, f"{get}If-None-Match: {etag}\r\n\r\n{LAST}".encode())
    assert again.statuses == (304, 200)
    assert again.closed


# Expect: 100-continue

EXPECTING = "Host: a\r\nContent-Type: application/x-www-form-urlencoded\r\nExpect: 100-continue\r\n"


def test_a_client_that_waits_for_100_continue_gets_it_once(server: Pipit) -> None:
    with Connection(server.port) as connection:
        connection.send(f"POST /login HTTP/1.1\r\n{EXPECTING}Content-Length: 16\r\n\r\n".encode())
        assert connection.hear(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        connection.send(b"body=in+")
        connection.send(b"one+word" + LAST.encode())
        conversation = connection.finish()
    assert conversation.statuses == (100, 400, 200)  # the form has no CSRF token
    assert b">in one word<" in conversation.answers[1].body


def test_a_client_that_waits_to_send_too_much_is_refused_instead(server: Pipit) -> None:
    conversation = talk(
        server.port, f"POST /login HTTP/1.1\r\n{EXPECTING}Content-Length: {MAX_CONTENT_LENGTH + 1}\r\n\r\n".encode()
    )
    check(conversation, (TOO_LARGE,))


def test_http_1_0_is_not_told_to_continue(server: Pipit) -> None:
    conversation = talk(
        server.port, f"POST /login HTTP/1.0\r\n{EXPECTING}Content-Length: 6\r\n\r\n".encode(), b"body=a"
    )
    assert conversation.statuses == (400,)
    assert conversation.closed


# Many requests at once


def test_twenty_requests_at_once_are_answered_in_their_order(server: Pipit) -> None:
    forms = [f"body=number+{number}." for number in range(20)]
    requests = [f"{LOGIN}Content-Length: {len(form)}\r\n\r\n{form}" for form in forms]
    conversation = talk(server.port, "".join([*requests, LAST]).encode())
    assert conversation.statuses == (*[400] * 20, 200)  # the forms have no CSRF token
    for number, answer in enumerate(conversation.answers[:20]):
        assert f">number {number}.<".encode() in answer.body


def test_a_client_that_says_it_has_sent_everything_gets_every_answer(server: Pipit) -> None:
    form = f"{LOGIN}Content-Length: 1000\r\n\r\nbody={'y' * 995}"
    with Connection(server.port) as connection:
        connection.send(form.encode() * 20)
        connection.say_no_more()
        conversation = connection.finish()
    assert conversation.statuses == (400,) * 20  # the forms have no CSRF token
    assert conversation.closed


def test_what_comes_before_a_malformed_request_is_answered(server: Pipit) -> None:
    page = b"GET /login HTTP/1.1\r\nHost: a\r\n\r\n"
    check(talk(server.port, page * 5 + b"GET\r\n\r\n" + page), ((*[200] * 5, 400),))


# Limits


def in_head(text: str) -> bytes:
    return f"GET /healthz HTTP/1.1\r\nHost: a\r\n{text}\r\n{LAST}".encode()


def test_a_head_within_the_limits_is_read(server: Pipit) -> None:
    check(talk(server.port, in_head("".join(f"X-{number}: y\r\n" for number in range(99)))), (TWO_GETS,))
    check(talk(server.port, in_head("".join(f"X-{number}: {'y' * 3000}\r\n" for number in range(10)))), (TWO_GETS,))


@pytest.mark.parametrize(
    "text",
    [
        f"X: {'y' * 33_000}\r\n",
        f"{'X' * 33_000}: y\r\n",
        "".join(f"X-{number}: {'y' * 1000}\r\n" for number in range(33)),
        "".join(f"X-{number}: y\r\n" for number in range(101)),
        "X: y\r\n" * 1000,
    ],
    ids=["one long field", "one long name", "long fields", "a field too many", "many fields of one name"],
)
def test_a_head_beyond_the_limits_is_refused(text: str, server: Pipit) -> None:
    check(talk(server.port, in_head(text)), (HEAD_TOO_LARGE,))


@pytest.mark.parametrize("start", ["GET /healthz HTTP/1.1\r\nHost: a\r\nX: ", "GET /healthz?", "GET"])
def test_a_head_without_an_end_is_refused_before_it_ends(start: str, server: Pipit) -> None:
    check(talk(server.port, start.encode(), b"y" * 40_000), (HEAD_TOO_LARGE, TARGET_TOO_LONG, REFUSED))


def test_a_target_that_is_too_long_is_refused(server: Pipit) -> None:
    target = f"/healthz?{'y' * 33_000}"
    check(
        talk(server.port, f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n{LAST}".encode()), (TARGET_TOO_LONG, HEAD_TOO_LARGE)
    )


def test_the_largest_body_is_read(server: Pipit) -> None:
    body = "body=" + "y" * (MAX_CONTENT_LENGTH - 5)
    conversation = talk(server.port, f"{LOGIN}Content-Length: {len(body)}\r\n\r\n{body}{LAST}".encode())
    assert conversation.statuses == (400, 200)  # the form has no CSRF token


@pytest.mark.parametrize("length", [MAX_CONTENT_LENGTH + 1, 10**6, 10**12])
def test_a_body_too_large_is_refused_before_it_comes(length: int, server: Pipit) -> None:
    check(talk(server.port, f"{LOGIN}Content-Length: {length}\r\n\r\n".encode()), (TOO_LARGE,))


def test_a_body_too_large_is_refused_while_it_comes(server: Pipit) -> None:
    body = "y" * (MAX_CONTENT_LENGTH + 1)
    check(talk(server.port, f"{LOGIN}Content-Length: {len(body)}\r\n\r\n{body}{LAST}".encode()), (TOO_LARGE,))


@pytest.mark.parametrize("size", [1, 1000, 16_000, MAX_CONTENT_LENGTH + 1])
def test_chunks_that_are_too_many_are_refused_before_the_last(size: int, server: Pipit) -> None:
    chunk = f"{size:x}\r\n{'y' * size}\r\n".encode()
    chunks = chunk * (MAX_CONTENT_LENGTH // size + 1)
    check(talk(server.port, f"{LOGIN}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks), (TOO_LARGE,))


def test_a_body_that_nobody_reads_does_not_keep_the_connection_either(server: Pipit) -> None:
    body = "y" * (MAX_CONTENT_LENGTH + 1)
    conversation = talk(server.port, f"{POST}Content-Length: {len(body)}\r\n\r\n{body}{LAST}".encode())
    check(conversation, (TOO_LARGE, ANSWERED_AND_CLOSED))


# Names with an underscore: WSGI can't tell them from names with a hyphen


@pytest.mark.parametrize("order", [1, -1], ids=["ahead of the true one", "after the true one"])
def test_a_name_with_an_underscore_does_not_pass_for_another(order: int, server: Pipit) -> None:
    fields = ["X_Request_ID: forged\r\nX_Forwarded-Proto: https\r\n", "X-Request-ID: true\r\n"][::order]
    answer = talk(server.port, in_head("".join(fields))).answers[0]
    assert answer.field("x-request-id") == "true"
    assert answer.field("strict-transport-security") is None


def test_a_name_with_an_underscore_is_dropped(server: Pipit) -> None:
    dropped, kept = (
        talk(server.port, in_head(f"X{sign}Request-ID: an-id\r\nX{sign}Forwarded{sign}Proto: https\r\n")).answers[0]
        for sign in "_-"
    )
    assert dropped.status == 200
    assert dropped.field("x-request-id") != "an-id"
    assert dropped.field("strict-transport-security") is None
    assert kept.field("x-request-id") == "an-id"
    assert kept.field("strict-transport-security")


# The log


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("GET /login?password=SECRET HTTP/1.1\r\nHost: a\r\nCookie: session=SECRET\r\npassword=SECRET\r\n\r\n", 400),
        ("GET /login?password=SECRET\r\nCookie: session=SECRET\r\n\r\n", 400),
        ("GET /login?password=SECRET HTTP/1.1\r\nHost: a\r\nHost: b\r\nCookie: session=SECRET\r\n\r\n", 400),
        ("GET /login?password=SECRET HTTP/1.1\r\nCookie: session=SECRET\r\n\r\n", 400),
        ("GET /login HTTP/1.1\r\nHost: a\r\nCookie: session=SECRET\x00\r\n\r\n", 400),
        ("password=SECRET\r\n\r\n", 400),
        (f"{LOGIN}Cookie: session=SECRET\r\nContent-Length: password=SECRET\r\n\r\n", 400),
        (f"{LOGIN}Cookie: session=SECRET\r\nTransfer-Encoding: chunked\r\n\r\npassword=SECRET\r\n", 400),
        (f"GET / HTTP/1.1\r\nHost: a\r\nCookie: session=SECRET{'x' * 33_000}\r\n\r\n", 431),
        (f"{LOGIN}Cookie: session=SECRET\r\nContent-Length: 70000\r\n\r\npassword=SECRET", 413),
    ],
    ids=[
        *("a line without a colon", "no version", "two hosts", "no host", "a NUL in a cookie", "no first line"),
        *("a bad length", "a bad chunk", "a head too large", "a body too large"),
    ],
)
def test_a_refusal_is_one_line_in_the_log_without_a_secret(text: str, status: int, server: Pipit) -> None:
    before = len(log_after_marker(server, "before"))
    check(talk(server.port, text.encode()), ((status,),))
    lines = log_after_marker(server, "after")[before:-1]
    assert "SECRET" not in "".join(lines)
    about_requests = [line for line in lines if "event loop" not in line]  # on a busy machine it may be late
    assert len(about_requests) == 1, lines
    assert re.search(rf"(^| )status={status} ", about_requests[0]), lines


def log_after_marker(server: Pipit, name: str) -> list[str]:
    """Return the log, as soon as it has the line of a request that is made now."""
    request_id = f"{name}-{len(server.log.read_bytes())}"
    talk(
        server.port,
        f"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Request-ID: {request_id}\r\nConnection: close\r\n\r\n".encode(),
    )
    wait_until(lambda: f" request_id={request_id} " in server.log.read_text(), "a line in the log")
    return server.log.read_text().splitlines()


# However the network cuts them up

REQUESTS: dict[str, tuple[str, str]] = {  # method, and all of the request
    "a GET": ("GET", "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a page": ("GET", "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nCookie: a=b\r\n\r\n"),
    "a page that isn't there": ("GET", HIDDEN),
    "a HEAD": ("HEAD", "HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a form": ("POST", f"{LOGIN}Content-Length: 16\r\n\r\nbody=in+one+word"),
    "a long form": ("POST", f"{LOGIN}Content-Length: 9000\r\n\r\nbody={'y' * 8995}"),
    "a form in chunks": (
        "POST",
        f"{LOGIN}Transfer-Encoding: chunked\r\n\r\n9\r\nbody=in+o\r\nA;a=b\r\nne+word+22\r\n0\r\nX: y\r\n\r\n",
    ),
    "a body that nobody reads": ("POST", f"{POST}Content-Length: {N}\r\n\r\n{HIDDEN}"),
    "chunks that nobody reads": ("POST", f"{POST}Transfer-Encoding: chunked\r\n\r\n{CHUNK}{CHUNK}{NOTHING}"),
    "a body of a GET of a page": ("GET", f"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {N}\r\n\r\n{HIDDEN}"),
    "a body of a GET": ("GET", f"GET /hidden HTTP/1.1\r\nHost: a\r\nContent-Length: {N}\r\n\r\n{HIDDEN}"),
}
VARYING = {"date", "x-request-id", "cache-status"}


@settings(deadline=None, derandomize=True, max_examples=60)
@given(data=st.data(), names=st.lists(st.sampled_from(list(REQUESTS)), min_size=1, max_size=8))
def test_requests_cut_anywhere_are_answered_as_when_they_come_in_one_piece(
    data: st.DataObject, names: list[str], port: int
) -> None:
    whole = "".join(REQUESTS[name][1] for name in names) + LAST
    cuts = data.draw(st.lists(st.integers(1, len(whole) - 1), max_size=12, unique=True).map(sorted), "cuts")
    pieces = [whole[start:end].encode() for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    methods = [*(REQUESTS[name][0] for name in names), "GET"]
    at_once = talk(port, whole.encode(), methods=methods)
    cut_up = talk(port, *pieces, methods=methods)
    assert len(at_once.answers) == len(methods)
    assert [steady(answer) for answer in cut_up.answers] == [steady(answer) for answer in at_once.answers]
    assert cut_up.closed


def steady(answer: Answer) -> Answer:
    """Return the answer without what differs from one moment to the next."""
    return Answer(answer.status, tuple(field for field in answer.fields if field[0] not in VARYING), answer.body)
