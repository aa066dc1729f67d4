"""What libraries compile for each application or engine is compiled once in the tests' process.

Nearly every test makes an application or a ledger of its own. Half of the processor time of a test
of the web went into compiling the same routes and templates again, and a fifth of that of a test
with a ledger into compiling the same statements.
"""

import functools
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _pytest.assertion import rewrite
from botocore.hooks import EventAliaser
from flask import Flask
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from sqlalchemy import Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.util import LRUCache
from werkzeug.routing import Rule

_STATEMENTS = 2000
_COMPILED = ("_parts", "_trace", "_converters", "arguments")  # of a route


def share() -> None:
    """Let all engines of a dialect share statements, and all applications templates and routes."""
    _share_statements()
    _share_routes()
    _share_names_of_events()
    Flask.jinja_options = {"bytecode_cache": _Templates()}


def _share_statements() -> None:
    """Use one cache for each dialect; the servers of a run are of one version."""
    caches: defaultdict[type, Any] = defaultdict(lambda: LRUCache(_STATEMENTS))
    original = Engine.__init__

    def prepare(engine: Engine, *args: Any, **options: Any) -> None:
        original(engine, *args, **options)
        engine._compiled_cache = caches[type(engine.dialect)]

    Engine.__init__ = prepare  # type: ignore[assignment]  # for the tests only
    # The dialect is a part of the cache's keys.
    DefaultDialect.__eq__ = lambda self, other: type(self) is type(other)  # type: ignore[method-assign]  # as above
    DefaultDialect.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign]  # as above


def _share_routes() -> None:
    """Compile a route once, with the functions that build its URLs; they get it as argument."""
    rules: dict[object, dict[str, Any]] = {}
    builders: dict[object, Callable[..., tuple[str, str]]] = {}
    original, original_builder = Rule.compile, Rule._compile_builder

    def compile_builder(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:  # noqa: FBT001, FBT002 - the signature of werkzeug
        key = (append_unknown, repr(rule.defaults), *rule._trace)
        if key not in builders:
            builders[key] = original_builder(rule, append_unknown)
        return builders[key]

    def compile_rule(rule: Rule) -> None:
        # All that is compiled comes from these; no application has converters of its own.
        given = (rule.rule, rule.host, rule.subdomain, repr(rule.defaults))
        key = (*given, rule.merge_slashes, rule.strict_slashes, rule.build_only)
        if key not in rules:
            original(rule)
            rules[key] = {name: getattr(rule, name) for name in _COMPILED}
        for name, value in rules[key].items():
            setattr(rule, name, value)
        rule._build = compile_builder(rule, append_unknown=False).__get__(rule)
        rule._build_unknown = compile_builder(rule, append_unknown=True).__get__(rule)

    Rule._compile_builder = compile_builder  # type: ignore[assignment]  # for the tests only
    Rule.compile = compile_rule  # type: ignore[method-assign, assignment]  # as above


def _share_names_of_events() -> None:
    """Look up the present name of one of botocore's events once, not for each client."""
    aliaser: Any = EventAliaser
    original = aliaser._alias_event_name
    # Every emitter has the same aliases.
    first = functools.cache(lambda name: original(aliaser(None), name))
    aliaser._alias_event_name = lambda _, name: first(name)


def rewrite_a_share(config: pytest.Config) -> None:
    """Rewrite the assertions of every nth test module, in one of n processes that collect all.

    In a fresh checkout each of them would rewrite them all, which takes three seconds. pytest
    keeps the result beside Python's own compiled files, where the others find it.
    """
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is None or sys.dont_write_bytecode:
        return
    folders = [Path(config.invocation_params.dir, argument) for argument in config.args]
    modules = sorted(path for folder in folders for path in folder.glob("test_*.py"))
    number = int(worker["workerid"].removeprefix("gw"))
    for module in modules[number :: worker["workercount"]]:
        compiled = rewrite.get_cache_dir(module) / (module.stem + rewrite.PYC_TAIL)
        if rewrite._read_pyc(module, compiled) is None and rewrite.try_makedirs(compiled.parent):
            source, code = rewrite._rewrite_test(module, config)
            rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, source, compiled)


class _Templates(BytecodeCache):
    def __init__(self) -> None:
        self._compiled: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if found := self._compiled.get(bucket.key):
            bucket.bytecode_from_string(found)

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._compiled[bucket.key] = bucket.bytecode_to_string()
