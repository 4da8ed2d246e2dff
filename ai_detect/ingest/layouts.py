"""The header layouts that are known by name, most specific first, as patterns over one line.

Groups with a meaning: `time` (any shape that timestamps.py reads), `level`, `priority` (syslog), `status` (HTTP) and
`content`; all others are fields that a session key may name. Every repetition before `content` is bounded or cannot
overlap its neighbour, so that a hostile line costs linear time.
"""

from __future__ import annotations

_LEVEL = (
    r"(?P<level>TRACE|DEBUG\d?|FINE|FINER|FINEST|CONFIG|INFO|INFORMATION|NOTICE|WARN|WARNING|ERROR|ERR|SEVERE"
    r"|CRIT|CRITICAL|ALERT|EMERG|FATAL|PANIC|(?i:trace|debug|info|notice|warn|warning|error|crit|critical|alert|emerg|fatal|panic))"
)
_DAY = r"\d{4}[-/]\d\d[-/]\d\d"
_SECONDS = r"\d\d:\d\d:\d\d"
_ISO = rf"{_DAY}[T ]{_SECONDS}(?:[.,]\d{{1,9}})?(?:Z| ?[+-]\d\d:?\d\d| UTC| GMT)?"
_RFC3164 = rf"[A-Z][a-z]{{2}} [ \d]\d {_SECONDS}"

PATTERNS: dict[str, str] = {
    "bgl": (
        r"(?P<label>\S{1,40}) (?P<epoch>\d{9,10}) \d{4}\.\d\d\.\d\d (?P<node>\S+) "
        r"(?P<time>\d{4}-\d\d-\d\d-\d\d\.\d\d\.\d\d\.\d{6}) \S+ (?P<type>\S+) "
        r"(?P<component>\S+) (?P<level>\S+) ?(?P<content>.*)"
    ),
    "thunderbird": (
        rf"(?P<label>\S{{1,40}}) (?P<time>\d{{9,10}}) \d{{4}}\.\d\d\.\d\d (?P<node>\S+) "
        rf"[A-Z][a-z]{{2}} +\d{{1,2}} {_SECONDS} "
        r"(?P<location>\S+) (?:(?P<component>[^\s:\[]{1,64})(?:\[(?P<pid>\d+)\])?: )?(?P<content>.*)"
    ),
    "hdfs": r"(?P<time>\d{6} \d{6}) (?P<pid>\d+) (?P<level>[A-Z]+) (?P<component>[^\s:]+): ?(?P<content>.*)",
    "healthapp": r"(?P<time>\d{8}-\d{1,2}:\d\d?:\d\d?:\d{1,3})\|(?P<component>[^|]*)\|(?P<pid>\d+)\|(?P<content>.*)",
    "openstack": (
        rf"(?:\S+\.log\S* )?(?P<time>{_DAY} {_SECONDS}\.\d{{3}}) (?P<pid>\d+) {_LEVEL} (?P<component>[\w.-]+)"
        r" \[(?P<request>req-[\w-]{1,64}|-)(?: (?P<context>[^\]]*))?\] ?(?P<content>.*)"
    ),
    "zookeeper": (
        rf"(?P<time>{_DAY} {_SECONDS},\d{{3}})(?: \[myid:[^\]]*\])? - {_LEVEL} +"
        r"\[(?P<node>.{0,256}?):(?P<component>[\w$.]+)@(?P<id>\d+)\] - (?P<content>.*)"
    ),
    "hadoop": (
        rf"(?P<time>{_DAY} {_SECONDS},\d{{3}}) {_LEVEL} +(?:\[(?P<process>.{{0,256}}?)\] )?"
        r"(?P<component>[\w$]+\.[\w$.]+): ?(?P<content>.*)"
    ),
    "postgresql": (
        rf"(?P<time>{_DAY} {_SECONDS}(?:\.\d{{3}})?) (?P<zone>[A-Z+-][\w+-]{{0,5}}) \[(?P<pid>\d+)\] "
        r"(?:(?P<session>[0-9a-f]+\.[0-9a-f]+) )?(?:(?P<user>[^@\s]*)@(?P<database>[^\s/]*)"
        r"(?:/(?P<application>.{0,64}?))? )?"
        # the lines that follow an error say what they are; their kind stays in the text
        r"(?:(?P<level>DEBUG\d?|INFO|NOTICE|WARNING|ERROR|LOG|FATAL|PANIC):  "
        r"|(?=(?:DETAIL|HINT|QUERY|CONTEXT|STATEMENT|LOCATION|BACKTRACE):  ))(?P<content>.*)"
    ),
    "access": (
        rf"(?:(?P<vhost>\S{{1,255}}:\d+) )?(?P<client>\S+) (?P<ident>\S+) (?P<user>\S+) "
        rf"\[(?P<time>\d\d/[A-Z][a-z]{{2}}/\d{{4}}:{_SECONDS} [+-]\d{{4}})\] "
        r"\"(?P<content>(?:[^\"\\]|\\.)*)\" (?P<status>\d{3}) (?P<size>\d+|-)(?: .*)?"
    ),
    "apache_error": (
        rf"\[(?P<time>[A-Z][a-z]{{2}} {_RFC3164}(?:\.\d+)? \d{{4}})\] \[(?:(?P<module>[\w-]*):)?(?P<level>\w+)\] "
        r"(?:\[pid (?P<pid>\d+)(?::tid (?P<tid>\d+))?\] )?(?:\[client (?P<client>[^\]]+)\] )?(?P<content>.*)"
    ),
    "nginx_error": (
        rf"(?P<time>{_DAY} {_SECONDS}) \[(?P<level>\w+)\] (?P<pid>\d+)#(?P<tid>\d+): "
        r"(?:\*(?P<connection>\d+) )?(?P<content>.*)"
    ),
    "syslog5424": (
        rf"<(?P<priority>\d{{1,3}})>1 (?P<time>{_ISO}|-) (?P<host>\S+) (?P<component>\S+) (?P<pid>\S+) (?P<msgid>\S+)"
        r" (?P<data>-|(?:\[(?:[^\]\\]|\\.)*\])+) ?(?P<content>.*)"
    ),
    "syslog": (
        rf"(?:<(?P<priority>\d{{1,3}})>)?(?P<time>{_RFC3164}) (?P<host>[\w.:-]+) +"
        r"(?:(?P<component>[^\s:\[][^:\[]{0,63}?)(?:\[(?P<pid>\d+)\])?: +)?(?P<content>.*)"
    ),
    "syslog_iso": (
        rf"(?:<(?P<priority>\d{{1,3}})>)?(?P<time>{_DAY}T{_SECONDS}(?:\.\d{{1,9}})?[+-]\d\d:?\d\d) (?P<host>[\w.:-]+) +"
        r"(?P<component>[\w./@()-]{1,64})(?:\[(?P<pid>\d+)\])?: +(?P<content>.*)"
    ),
    "glog": (
        rf"(?P<level>[IWEF])(?P<time>\d{{4}} {_SECONDS}\.\d{{6}}) +(?P<tid>\d+) (?P<component>[^\s:\]]+):"
        r"(?P<source_line>\d+)\] ?(?P<content>.*)"
    ),
    "android": (
        rf"(?P<time>\d\d-\d\d {_SECONDS}\.\d{{3}}) +(?P<pid>\d+) +(?P<tid>\d+) (?P<level>[VDIWEFS]) "
        r"(?P<component>.{0,128}?) *: ?(?P<content>.*)"
    ),
    "spring": (
        rf"(?P<time>{_DAY}[T ]{_SECONDS}[.,]\d{{3}}(?:Z|[+-]\d\d:?\d\d)?) +{_LEVEL} (?P<pid>\d+) --- "
        r"(?:\[[^\]]{0,128}\] )?\[(?P<thread>[^\]]{0,128})\] (?:\[[^\]]{0,128}\] )?"
        r"(?P<component>\S+) +: (?P<content>.*)"
    ),
    "python": rf"(?P<time>{_DAY} {_SECONDS}(?:,\d{{3}})?) - (?P<component>\S+) - {_LEVEL} - (?P<content>.*)",
    "log4j": (
        rf"(?P<time>(?:{_DAY}[T ])?{_SECONDS}[.,]\d{{3}}) +\[(?P<thread>.{{0,256}}?)\] +"
        rf"(?:(?P<trace>[\w-]{{1,64}}) +)??{_LEVEL} +"
        r"(?P<component>[\w$./-]+(?: +[\w$<>]+)?) *(?:-|:) (?P<content>.*)"
    ),
    "spark": rf"(?P<time>\d\d/\d\d/\d\d {_SECONDS}) {_LEVEL} (?P<component>[^\s:]+): (?P<content>.*)",
    "dmesg": r"(?:<(?P<priority>\d{1,3})>)?\[(?P<time> *\d{1,9}\.\d{6})\] (?P<content>.*)",
    "iso": (
        rf"\[?(?P<time>{_ISO})\]?(?=[\s:|,;-]|$)[\s:|,;-]{{0,8}}"
        rf"(?:[\[(<]?{_LEVEL}[\])>]?(?=[\s:|,;-]|$)[\s:|,;-]{{0,8}})?(?P<content>.*)"
    ),
}

#: Other names for layouts.
ALIASES = {
    "openssh": "syslog",
    "linux": "syslog",
    "apache": "apache_error",
    "nginx": "access",
    "postgres": "postgresql",
}
