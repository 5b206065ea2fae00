"""Capabilities and parameters: defaults, ranges, what goes together.

Texts and values of 7.2 are the real one's answers (`test_qmp_migration_live.py` asks it again).
"""

import pytest

from testbed.model.migration.configuration import QAPI_CAPABILITIES
from testbed.model.profile import PROFILES
from testbed.model.qmp.error import CommandError
from testbed.model.qmp.settings import CAPABILITIES_7_2, SUPPORTED, Settings, in_the_order_shown


def settings(profile="7.2", **options):
    return Settings(PROFILES[profile], **options)


def refusal(act, *arguments):
    """Why it is refused, or None."""
    try:
        act(*arguments)
    except CommandError as error:
        return error.desc
    return None


def test_all_capabilities_are_off_at_first():
    assert len(CAPABILITIES_7_2) == 21
    assert set(CAPABILITIES_7_2) == QAPI_CAPABILITIES
    assert settings().capabilities == dict.fromkeys(CAPABILITIES_7_2, False)
    assert list(settings("2.9").capabilities) == list(CAPABILITIES_7_2[:9])


@pytest.mark.parametrize("profile", PROFILES)
def test_a_capability_is_carried_out_or_refused(profile):
    for name in settings(profile).capabilities:
        fresh = settings(profile)
        why = refusal(fresh.set_capabilities, [(name, True)])
        assert (why is None) == (name in SUPPORTED) == fresh.has(name)
        assert why is None or "support" in why or "requires" in why or "only available" in why
        assert refusal(fresh.set_capabilities, [(name, False)]) is None
        assert not fresh.has(name)


def test_a_capability_of_later_is_off():
    old = settings("2.9")
    assert not old.has("return-path")
    assert old.get("max-postcopy-bandwidth", 0) == 0


TOGETHER = [
    ("postcopy-ram x-ignore-shared", "Postcopy is not compatible with ignore-shared"),
    ("background-snapshot xbzrle", "Background-snapshot is not compatible with xbzrle"),
    (
        "background-snapshot multifd postcopy-ram",
        "Background-snapshot is not compatible with postcopy-ram",
    ),
    ("background-snapshot", "background-snapshot is not supported by this model"),
    (
        "zero-copy-send",
        "Zero copy only available for non-compressed non-TLS multifd migration",
    ),
    (
        "zero-copy-send multifd xbzrle",
        "Zero copy only available for non-compressed non-TLS multifd migration",
    ),
    ("postcopy-preempt", "Postcopy preempt requires postcopy-ram"),
    ("postcopy-preempt postcopy-ram compress", "Postcopy preempt not compatible with compress"),
    ("postcopy-preempt postcopy-ram", "postcopy-preempt is not supported by this model"),
    ("multifd compress", "Multifd is not compatible with compress"),
    ("multifd events", "multifd is not supported by this model"),
]


@pytest.mark.parametrize(("names", "text"), TOGETHER)
def test_what_does_not_go_together_changes_nothing(names, text):
    kept = settings()
    kept.set_capabilities([("events", True)])
    before = dict(kept.capabilities)
    assert refusal(kept.set_capabilities, [(name, True) for name in names.split()]) == text
    assert kept.capabilities == before


def test_the_last_one_of_a_name_counts():
    kept = settings()
    kept.set_capabilities([("multifd", True), ("events", True), ("multifd", False)])
    assert kept.has("events")
    assert not kept.has("multifd")


RANGES = [
    # name, last value below that is refused, first that is taken, last, first above
    ("announce-initial", None, 0, 100000, 100001),
    ("announce-max", None, 0, 100000, 100001),
    ("announce-rounds", None, 0, 1000, 1001),
    ("announce-step", 0, 1, 10000, 10001),
    ("compress-level", None, 0, 9, 10),
    ("compress-threads", 0, 1, 255, None),
    ("decompress-threads", 0, 1, 255, None),
    ("throttle-trigger-threshold", 0, 1, 100, 101),
    ("cpu-throttle-initial", 0, 1, 99, 100),
    ("cpu-throttle-increment", 0, 1, 99, 100),
    ("max-bandwidth", None, 0, (1 << 64) - 1, None),
    ("downtime-limit", None, 0, 2000000, 2000001),
    ("x-checkpoint-delay", None, 0, (1 << 32) - 1, None),
    ("multifd-channels", 0, 1, 255, None),
    ("xbzrle-cache-size", 2048, 4096, 1 << 63, (1 << 63) + 4096),
    ("max-postcopy-bandwidth", None, 0, (1 << 64) - 1, None),
    ("max-cpu-throttle", 19, 20, 99, 100),
]


@pytest.mark.parametrize(("name", "below", "low", "high", "above"), RANGES)
def test_a_parameter_is_taken_within_its_range_only(name, below, low, high, above):
    kept = settings()
    for value in (low, high):
        assert kept.set_parameters({name: value}) == {name}
        assert kept[name] == value
    for value in (below, above):
        if value is not None:
            why = refusal(kept.set_parameters, {"tls-authz": "x", name: value})
            assert why is not None
            assert why.startswith(f"Parameter '{name.replace('-', '_')}' expects ")
    assert (kept[name], kept["tls-authz"]) == (high, ""), "all of them or none"


def test_what_is_wrong_is_named_in_the_order_of_the_checks():
    wrong = {"announce-step": 0, "max-cpu-throttle": 1, "downtime-limit": 1 << 40}
    assert refusal(settings().set_parameters, wrong) == (
        "Parameter 'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms"
    )
    del wrong["downtime-limit"]
    why = refusal(settings().set_parameters, wrong)
    assert why is not None
    assert "max_cpu_throttle" in why


def test_the_throttle_must_stay_above_where_it_begins():
    kept = settings()
    kept.set_parameters({"max-cpu-throttle": 50})
    assert refusal(kept.set_parameters, {"cpu-throttle-initial": 51}) == (
        "Parameter 'max_cpu_throttle' expects an integer in the range of cpu_throttle_initial to 99"
    )


def test_the_cache_is_a_power_of_two_of_at_least_a_page():
    kept = settings(target_page_bytes=8192)
    for wrong in (0, 4096, 12288, 16384 + 1):
        assert refusal(kept.set_parameters, {"xbzrle-cache-size": wrong}) == (
            "Parameter 'xbzrle_cache_size' expects a power of two no less than the target page size"
        )
    kept.set_parameters({"xbzrle-cache-size": 8192})
    assert kept.xbzrle_cache_bytes == 8192


def test_levels_of_multifd_are_forgotten():
    kept = settings()
    assert kept.set_parameters({"multifd-zlib-level": 255, "multifd-zstd-level": 0}) == set()
    assert (kept["multifd-zlib-level"], kept["multifd-zstd-level"]) == (1, 1)


def test_encryption_is_refused_and_switching_it_off_is_not():
    kept = settings()
    assert refusal(kept.set_parameters, {"tls-creds": "x"}) == (
        "tls-creds is not supported by this model"
    )
    for off in (None, ""):
        kept.set_parameters({"tls-creds": off, "tls-hostname": "h"})
    assert (kept["tls-creds"], kept["tls-hostname"]) == ("", "h")


def test_a_mapping_is_told_once_it_was_set():
    kept = settings()
    assert "block-bitmap-mapping" not in kept.all_parameters()
    kept.set_parameters({"block-bitmap-mapping": []})
    assert kept.all_parameters()["block-bitmap-mapping"] == []
    mapping = [{"node-name": "a", "alias": "b", "bitmaps": []}]
    assert refusal(kept.set_parameters, {"block-bitmap-mapping": mapping}) == (
        "block-bitmap-mapping is not supported by this model"
    )


OLD = [
    ({"compress-level": 10}, "compress_level", "is invalid, it should be in the range of 0 to 9"),
    (
        {"compress-threads": 0},
        "compress_threads",
        "is invalid, it should be in the range of 1 to 255",
    ),
    ({"cpu-throttle-initial": 100}, "cpu_throttle_initial", "an integer in the range of 1 to 99"),
    (
        {"max-bandwidth": -1},
        "max_bandwidth",
        "an integer in the range of 0 to 18446744073709551615 bytes/second",
    ),
    (
        {"downtime-limit": 2000001},
        "downtime_limit",
        "an integer in the range of 0 to 2000000 milliseconds",
    ),
    ({"x-checkpoint-delay": -1}, "x_checkpoint_delay", "is invalid, it should be positive"),
]


@pytest.mark.parametrize(("changes", "name", "expects"), OLD)
def test_ranges_of_2_9(changes, name, expects):
    kept = settings("2.9")
    before = kept.all_parameters()
    assert refusal(kept.set_parameters, changes) == f"Parameter '{name}' expects {expects}"
    assert kept.all_parameters() == before


def test_defaults_of_2_9():
    assert settings("2.9").all_parameters() == {
        "compress-level": 1,
        "compress-threads": 8,
        "decompress-threads": 2,
        "cpu-throttle-initial": 20,
        "cpu-throttle-increment": 10,
        "tls-creds": "",
        "tls-hostname": "",
        "max-bandwidth": 32 << 20,
        "downtime-limit": 300,
        "x-checkpoint-delay": 200,
    }


def test_the_human_monitor_shows_them_in_an_order_of_its_own():
    names = [parameter.name for parameter in in_the_order_shown(settings().parameters)]
    assert names[11:13] == ["cpu-throttle-tailslow", "max-cpu-throttle"]
    assert names[-5:] == [
        *("multifd-channels", "multifd-compression", "xbzrle-cache-size"),
        *("max-postcopy-bandwidth", "tls-authz"),
    ]
    assert not {"multifd-zlib-level", "multifd-zstd-level", "block-bitmap-mapping"} & set(names)
