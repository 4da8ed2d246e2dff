import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_detect.errors import ConfigError
from ai_detect.ingest.log_format import LAYOUTS, compile_header, detect_format, resolve_format
from ai_detect.ingest.timestamps import TimeParser
from ai_detect.tables import LEVELS, NO_TIME

#: layout, line, time, level, content, some of its fields. All lines are our own.
EXAMPLES = [
    (
        "hdfs",
        "260131 203615 148 INFO node.Store: kept piece pc_1",
        "2026-01-31T20:36:15",
        "info",
        "kept piece pc_1",
        {"pid": "148"},
    ),
    (
        "hadoop",
        "2026-01-31 18:01:47,978 WARN [Worker [a] 3] org.own.App: slow",
        "2026-01-31T18:01:47.978",
        "warning",
        "slow",
        {"process": "Worker [a] 3"},
    ),
    (
        "hadoop",
        "2026-01-31 18:01:47,978 INFO org.own.App: started",
        "2026-01-31T18:01:47.978",
        "info",
        "started",
        {"component": "org.own.App"},
    ),
    (
        "zookeeper",
        "2026-01-31 17:41:44,747 - ERROR [Peer[id=1]/0:0:1:Election@774] - no leader",
        "2026-01-31T17:41:44.747",
        "error",
        "no leader",
        {"component": "Election", "id": "774"},
    ),
    (
        "bgl",
        "- 1769886170 2026.01.31 R02-M1 2026-01-31-19.02.50.675872 R02-M1 RAS KERNEL FATAL torn page",
        "2026-01-31T19:02:50.675872",
        "fatal",
        "torn page",
        {"label": "-", "component": "KERNEL"},
    ),
    (
        "thunderbird",
        "- 1769886170 2026.01.31 dn228 Jan 31 19:02:50 dn228/dn228 crond[2915]: session closed",
        "2026-01-31T19:02:50",
        "",
        "session closed",
        {"component": "crond", "pid": "2915"},
    ),
    (
        "healthapp",
        "20260131-2:5:9:66|Step_L|300|walked 3",
        "2026-01-31T02:05:09.066",
        "",
        "walked 3",
        {"component": "Step_L"},
    ),
    (
        "openstack",
        "2026-01-31 00:00:04.500 25746 INFO nova.osapi [req-38101a0b-20 113d 54fa - - -] booted",
        "2026-01-31T00:00:04.5",
        "info",
        "booted",
        {"request": "req-38101a0b-20", "pid": "25746"},
    ),
    (
        "openstack",
        "2026-01-31 00:00:04.500 25746 INFO nova.osapi [-] booted",
        "2026-01-31T00:00:04.5",
        "info",
        "booted",
        {},
    ),
    (
        "postgresql",
        "2026-01-31 10:00:00.123 UTC [77] 65f0.4d shop@store/psql LOG:  statement: select 1",
        "2026-01-31T10:00:00.123",
        "info",
        "statement: select 1",
        {"pid": "77", "session": "65f0.4d", "user": "shop", "database": "store", "application": "psql"},
    ),
    (
        "postgresql",
        "2026-01-31 10:00:00.123 UTC [77] 65f0.4d shop@store/My App 2 ERROR:  deadlock detected",
        "2026-01-31T10:00:00.123",
        "error",
        "deadlock detected",
        {"application": "My App 2"},
    ),
    (
        "postgresql",
        "2026-01-31 10:00:00.123 UTC [77] 65f0.4d LOG:  checkpoint starting: time",
        "2026-01-31T10:00:00.123",
        "info",
        "checkpoint starting: time",
        {"session": "65f0.4d"},
    ),
    (
        "postgresql",
        "2026-01-31 10:00:00.123 CET [77] shop@store FATAL:  no entry",
        "2026-01-31T10:00:00.123",
        "fatal",
        "no entry",
        {"user": "shop"},
    ),
    (
        "postgresql",
        "2026-01-31 10:00:00.123 UTC [77] LOG:  ready",
        "2026-01-31T10:00:00.123",
        "info",
        "ready",
        {"pid": "77"},
    ),
    (
        "postgresql",
        "2026-01-31 10:00:00.123 UTC [77] shop@store DETAIL:  Key (id)=(1) exists.",
        "2026-01-31T10:00:00.123",
        "",
        "DETAIL:  Key (id)=(1) exists.",
        {},
    ),
    (
        "access",
        '10.0.0.1 - ann [31/Jan/2026:13:55:36 -0700] "GET /a b\\"c HTTP/1.1" 503 12 "-" "agent \\"x\\""',
        "2026-01-31T20:55:36",
        "error",
        'GET /a b\\"c HTTP/1.1 HTTP503',
        {"client": "10.0.0.1", "user": "ann", "status": "503"},
    ),
    (
        "access",
        '10.0.0.1 - - [31/Jan/2026:13:55:36 +0000] "GET / HTTP/1.1" 404 -',
        "2026-01-31T13:55:36",
        "warning",
        "GET / HTTP/1.1 HTTP404",
        {},
    ),
    ("apache_error", "[Sat Jan 31 04:47:44 2026] [notice] child ok", "2026-01-31T04:47:44", "notice", "child ok", {}),
    (
        "apache_error",
        "[Sat Jan 31 04:47:44.123456 2026] [core:error] [pid 35:tid 46] [client 10.0.0.9:60] AH1: gone",
        "2026-01-31T04:47:44.123456",
        "error",
        "AH1: gone",
        {"module": "core", "pid": "35", "client": "10.0.0.9:60"},
    ),
    (
        "nginx_error",
        "2026/01/31 10:00:00 [error] 31#32: *5 connect() failed",
        "2026-01-31T10:00:00",
        "error",
        "connect() failed",
        {"connection": "5"},
    ),
    (
        "syslog",
        "Jan  5 15:16:01 box sshd(pam)[19]: failed; rhost=a",
        "1970-01-05T15:16:01",
        "",
        "failed; rhost=a",
        {"host": "box", "component": "sshd(pam)", "pid": "19"},
    ),
    (
        "syslog",
        "Jan 31 15:16:01 box syslogd 1.4.1: restart.",
        "1970-01-31T15:16:01",
        "",
        "restart.",
        {"component": "syslogd 1.4.1"},
    ),
    (
        "syslog",
        "Feb 29 15:16:01 box last message repeated 2 times",
        "1970-03-01T15:16:01",
        "",
        "last message repeated 2 times",
        {},
    ),
    ("syslog", "<11>Jan 31 15:16:01 box app: oops", "1970-01-31T15:16:01", "error", "oops", {"component": "app"}),
    ("syslog_iso", "2026-01-31T15:16:01.5+02:00 box app[1]: oops", "2026-01-31T13:16:01.5", "", "oops", {"pid": "1"}),
    (
        "syslog5424",
        '<165>1 2026-01-31T22:14:15.003Z box app 12 ID47 [x@1 a="b\\]c"] An event',
        "2026-01-31T22:14:15.003",
        "notice",
        "An event",
        {"component": "app", "msgid": "ID47"},
    ),
    ("syslog5424", "<0>1 - - - - - -", None, "fatal", "", {}),
    (
        "glog",
        "W0131 16:29:40.123456   12 cache.go:55] miss",
        "1970-01-31T16:29:40.123456",
        "warning",
        "miss",
        {"component": "cache.go"},
    ),
    (
        "android",
        "01-31 16:13:38.811  1702  2395 D PowerManager: wake",
        "1970-01-31T16:13:38.811",
        "debug",
        "wake",
        {"tid": "2395"},
    ),
    (
        "spring",
        "2026-01-31T12:00:00.123Z  INFO 77 --- [main] c.own.App : Started",
        "2026-01-31T12:00:00.123",
        "info",
        "Started",
        {"thread": "main"},
    ),
    (
        "spring",
        "2026-01-31T12:00:00.123Z  INFO 77 --- [shop] [main] c.own.App : Started",
        "2026-01-31T12:00:00.123",
        "info",
        "Started",
        {"thread": "main"},
    ),
    (
        "python",
        "2026-01-31 12:00:00,123 - shop.cart - ERROR - empty",
        "2026-01-31T12:00:00.123",
        "error",
        "empty",
        {"component": "shop.cart"},
    ),
    (
        "log4j",
        "16:29:40.136 [task-2]  VA_ii DEBUG c.own.Path <init> - normal = /a",
        "1970-01-01T16:29:40.136",
        "debug",
        "normal = /a",
        {"trace": "VA_ii", "thread": "task-2"},
    ),
    (
        "log4j",
        "2026-01-31 12:00:00,123 [main] WARN  com.own.Bar - low",
        "2026-01-31T12:00:00.123",
        "warning",
        "low",
        {"component": "com.own.Bar"},
    ),
    ("spark", "26/01/31 20:10:40 INFO exec.Backend: Registered", "2026-01-31T20:10:40", "info", "Registered", {}),
    ("dmesg", "[   12.500000] usb 1-1: new", "1970-01-01T00:00:12.5", "", "usb 1-1: new", {}),
    ("dmesg", "<3>[   12.500000] usb 1-1: dead", "1970-01-01T00:00:12.5", "error", "usb 1-1: dead", {}),
    ("iso", "2026-01-31T12:00:00Z starting up", "2026-01-31T12:00:00", "", "starting up", {}),
    ("iso", "[2026-01-31 12:00:00.250] [ERROR] no disk", "2026-01-31T12:00:00.25", "error", "no disk", {}),
    (
        "iso",
        "2026-01-31 12:00:00 | warn | information is old",
        "2026-01-31T12:00:00",
        "warning",
        "information is old",
        {},
    ),
    (
        "json",
        '{"ts": 1769860800.5, "level": "warn", "msg": "tick", "user": {"id": 7}}',
        "2026-01-31T12:00:00.5",
        "warning",
        "tick",
        {"user.id": "7"},
    ),
    (
        "json",
        '{"time": "2026-01-31T12:00:00.5Z", "level": 50, "message": "tock"}',
        "2026-01-31T12:00:00.5",
        "error",
        "tock",
        {},
    ),
    (
        "json",
        '{"__REALTIME_TIMESTAMP": "1769860800500000", "PRIORITY": "4", "MESSAGE": "unit failed"}',
        "2026-01-31T12:00:00.5",
        "warning",
        "unit failed",
        {},
    ),
    (
        "json",
        '{"t": {"$date": "2026-01-31T12:00:00.5+00:00"}, "s": "I", "msg": "up"}',
        "2026-01-31T12:00:00.5",
        "info",
        "up",
        {},
    ),
    ("json", '{"a": [1, "\\ud800"]}', None, "", '{"a": [1, "\\ud800"]}', {"a": '[1, "\ufffd"]'}),
    ("plain", "  anything at all", None, "", "  anything at all", {}),
]


def to_ns(text: str | None) -> int:
    if text is None:
        return NO_TIME
    whole, _, fraction = text.partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=timezone.utc).timestamp())
    return seconds * 10**9 + int(fraction.ljust(9, "0") if fraction else 0)


@pytest.mark.parametrize(("name", "line", "time", "level", "content", "fields"), EXAMPLES)
def test_layout_splits_its_line(
    name: str, line: str, time: str | None, level: str, content: str, fields: dict[str, str]
) -> None:
    header = LAYOUTS[name].parse(line)
    assert header is not None
    assert header.timestamp == to_ns(time)
    assert (LEVELS[header.level], header.content) == (level, content)
    assert {key: header.fields.get(key) for key in fields} == fields


@pytest.mark.parametrize(("name", "line"), [example[:2] for example in EXAMPLES if not example[1].startswith("<0>1 -")])
def test_layout_is_recognised_by_its_line_alone(name: str, line: str) -> None:
    layout = detect_format([line, "\tat a.stack.Frame(of.it:1)", ""])
    assert layout.name == name
    assert resolve_format(layout.name, [line]).name == name


@pytest.mark.parametrize("name", LAYOUTS)
@given(
    line=st.text(st.characters(exclude_characters="\n"))
    | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))
)
def test_no_line_crashes_a_layout(name: str, line: str) -> None:
    header = LAYOUTS[name].parse(line.replace("\n", " "))
    assert header is None or 0 <= header.level < len(LEVELS)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from(["time", "ts", "level", "msg", "t"]),
)
def test_no_json_value_crashes(value: object, name: str) -> None:
    line = json.dumps({name: value, "message": "x", "other": value})
    header = LAYOUTS["json"].parse(line)
    assert header is not None and -(2**63) <= header.timestamp < 2**63
    for text in (header.content, *header.fields.values()):
        text.encode("utf-8", "surrogateescape")


def test_a_nest_of_brackets_is_no_json() -> None:
    assert LAYOUTS["json"].parse('{"a":' * 100_000) is None
    assert LAYOUTS["json"].parse('{"a": ' + "9" * 10_000 + "}") is None


def test_detection_wants_a_majority_and_takes_the_most_specific() -> None:
    hadoop = ["2026-01-31 18:01:47,978 INFO [main] org.own.App: x"] * 6
    assert detect_format([*hadoop, *["Caused by: something"] * 4]).name == "hadoop"
    assert detect_format([*hadoop, *["no header"] * 7]).name == "plain"
    assert detect_format([*hadoop, *["\tat frame"] * 50]).name == "hadoop"
    mixed = [*hadoop, *["2026-01-31 18:01:47 only a time"] * 20]
    assert detect_format(mixed).name == "iso"
    assert detect_format([]).name == "plain"


@pytest.mark.parametrize(
    ("header", "line", "time", "content", "fields"),
    [
        (
            "<Date> <Time> <Pid> <Level> <Component>: <Content>",
            "260131 203615 148 INFO a.B: kept: x",
            "2026-01-31T20:36:15",
            "kept: x",
            {"Pid": "148"},
        ),
        (
            r"<Date> <Time> <Level> \[<Process>\] <Component>: <Content>",
            "2026-01-31 18:01:47,978 INFO [IPC 3 [x y] o.A: hi",
            "2026-01-31T18:01:47.978",
            "hi",
            {"Process": "IPC 3 [x y"},
        ),
        (
            r"<Month> <Date> <Time> <Level> <Component>(\[<PID>\])?: <Content>",
            "Jan 31 15:16:01 box sshd(x)[19]: hi",
            "1970-01-31T15:16:01",
            "hi",
            {"PID": "19"},
        ),
        (
            r"<Month> <Date> <Time> <Level> <Component>(\[<PID>\])?: <Content>",
            "Jan 31 15:16:01 box kernel: hi",
            "1970-01-31T15:16:01",
            "hi",
            {"Component": "kernel"},
        ),
        (r"\[<Time>\] \[<Level>\] <Content>", "[Sat Jan 31 04:47:44 2026] [error] hi", "2026-01-31T04:47:44", "hi", {}),
        (
            r"<Time>\|<Component>\|<Pid>\|<Content>",
            "20260131-22:15:29:606|A|3|hi|ho",
            "2026-01-31T22:15:29.606",
            "hi|ho",
            {"Pid": "3"},
        ),
        (
            r"<Date> <Time> - <Level>  \[<Node>:<Component>@<Id>\] - <Content>",
            "2026-01-31 17:41:44,747 - INFO  [P[i=1]/0:0:E@7] - hi",
            "2026-01-31T17:41:44.747",
            "hi",
            {"Id": "7"},
        ),
        (
            "<Label> <Timestamp> <Date> <Node> <Time> <Content>",
            "- 1769886170 2026.01.31 R0 2026-01-31-19.02.50.675872 hi",
            "2026-01-31T19:02:50",
            "hi",
            {"Label": "-"},
        ),
        (r"<Component>( \(<Address>\))?: <Content>", "app (0x1): hi", None, "hi", {"Address": "0x1"}),
        ("<Content>", "hi", None, "hi", {}),
    ],
)
def test_header_strings(header: str, line: str, time: str | None, content: str, fields: dict[str, str]) -> None:
    layout = resolve_format(header, [line])
    parsed = layout.parse(line)
    assert parsed is not None
    assert (parsed.timestamp, parsed.content) == (to_ns(time), content)
    assert {name: parsed.fields[name] for name in fields} == fields
    assert set(fields) <= set(layout.fields)


def test_a_line_without_a_readable_time_is_no_header() -> None:
    layout = compile_header("<Date> <Time> <Level> <Component>: <Content>")
    assert layout.parse("2026-01-31 10:00:00 INFO a: b") is not None
    assert layout.parse("Caused by some error: b") is None


@given(st.text(st.sampled_from("<>()?\\[]|. :DateTimeContent\x01\x02é")), st.text())
def test_any_header_string_compiles_or_is_refused(header: str, line: str) -> None:
    try:
        layout = compile_header(header + "<Content>")
    except ConfigError as error:
        assert "\n" not in str(error).replace(header, "")
    else:
        layout.parse(line.replace("\n", ""))


@pytest.mark.parametrize(
    ("setting", "message_field", "message"),
    [
        ("hadop", None, "did you mean 'hadoop'"),
        ("<Date> <Time>", None, "must end with <Content>"),
        ("<Date><Time> <Content>", None, "nothing between"),
        ("<A> <A> <Content>", None, "twice"),
        ("<A>|<Content>", None, "none of the first 1 lines has this header"),
        ("hdfs", None, "auto would take 'iso'"),
        ("auto", "msg", "this log is 'iso'"),
    ],
)
def test_settings_that_do_not_fit(setting: str, message_field: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_format(setting, ["2026-01-31 10:00:00 something"], message_field)


def test_message_field_must_exist() -> None:
    lines = ['{"what": "hello", "who": "me"}']
    layout = resolve_format("auto", lines, "what")
    parsed = layout.parse(lines[0])
    assert parsed is not None and parsed.content == "hello"
    with pytest.raises(ConfigError, match="there are: what, who"):
        resolve_format("auto", lines, "wat")


def test_years_go_up_where_a_date_without_one_falls_back() -> None:
    clock = TimeParser()
    texts = [
        "Nov 30 10:00:00",
        "Dec 31 23:59:59",
        "Jan  1 00:00:01",
        "Dec 31 23:59:58",
        "Jan  1 00:00:02",
        "Mar  1 00:00:00",
        "Jan  2 00:00:00",
    ]
    years = [datetime.fromtimestamp((clock(text) or 0) / 1e9, timezone.utc).year for text in texts]
    assert years == [1970, 1970, 1971, 1970, 1971, 1971, 1972]


def test_clocks_without_a_date_go_on_past_midnight() -> None:
    clock = TimeParser()
    times = [clock(text) or 0 for text in ("23:59:59.5", "00:00:00.5", "00:00:00.4", "12:30:00 AM", "4:29:40 PM")]
    hours = [(time - times[0]) / 3.6e12 for time in times]
    assert hours == pytest.approx(
        [0, 1 / 3600, 0.9 / 3600, (30 * 60 + 0.5) / 3600, (16 * 3600 + 29 * 60 + 40.5) / 3600]
    )


@given(
    st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2199, 12, 31)),
    st.sampled_from(
        [
            "%Y-%m-%d %H:%M:%S.%f",
            "%Y-%m-%dT%H:%M:%S,%fZ",
            "%Y/%m/%d %H:%M:%S.%f",
            "%d/%b/%Y:%H:%M:%S.%f +0000",
            "%Y%m%d-%H:%M:%S.%f",
            "%a %b %d %H:%M:%S.%f %Y",
            "%b %d, %Y %I:%M:%S.%f %p",
            "%Y%m%dT%H%M%S.%f",
            "%Y-%m-%d-%H.%M.%S.%f",
            "%d %b %Y %H:%M:%S.%f",
        ]
    ),
)
def test_times_in_many_shapes(moment: datetime, shape: str) -> None:
    expected = int(moment.replace(tzinfo=timezone.utc).timestamp()) * 10**9 + moment.microsecond * 1000
    assert TimeParser()(moment.strftime(shape)) == expected


@given(st.lists(st.text(st.sampled_from("0123456789:.-/ TZ+JanDec,")) | st.text()))
def test_no_text_crashes_the_clock(texts: list[str]) -> None:
    clock = TimeParser()
    for text in texts:
        time = clock(text)
        assert time is None or -(2**63) < time < 2**63
