"""Which releases work together: laws that neither side may bend."""

from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from stillroom.common.versions import (
    MOST_CHARACTERS,
    OLDEST_CLIENT,
    OLDEST_SERVER,
    UNSTATED,
    About,
    client_refusal,
    mismatch,
    own_version,
    present,
    read_version,
    stated,
)

PARTS = st.tuples(*[st.integers(0, 4)] * 3)
VERSIONS = PARTS.map(lambda parts: Version(".".join(map(str, parts))))
SERVERS = st.tuples(VERSIONS, VERSIONS).map(lambda pair: About(max(pair), min(pair)))


@given(VERSIONS, SERVERS)
def test_the_rule(client: Version, about: About) -> None:
    """A client is taken if and only if it is not older than asked and of no later generation."""
    taken = about.oldest_client <= client and client.major <= about.version.major

    assert (client_refusal(client, about) is None) == taken


@given(VERSIONS, SERVERS, VERSIONS)
def test_a_client_goes_on_only_where_it_is_taken(
    client: Version, about: About, oldest_server: Version
) -> None:
    """What the server would refuse, the client refuses itself, and with the same reason."""
    refused, seen = client_refusal(client, about), mismatch(client, about, oldest_server)

    if refused is not None:
        assert seen == refused
    else:
        assert (seen is None) == (about.version >= oldest_server)


@given(SERVERS)
def test_the_servers_own_release_is_always_a_way_out(about: About) -> None:
    """Errors name the server's release as the one to install: it must be taken."""
    assert client_refusal(about.version, about) is None


@given(VERSIONS, SERVERS)
def test_a_newer_client_of_the_same_generation_is_taken_too(client: Version, about: About) -> None:
    """Whether hospitals or the server upgrade first does not matter within a generation."""
    later = Version(f"{client.major}.{client.minor + 1}.0")

    if client_refusal(client, about) is None:
        assert client_refusal(later, about) is None


@given(st.one_of(st.none(), st.text(max_size=60), st.integers(), st.binary(max_size=9)))
def test_whatever_a_peer_writes_is_a_version_or_nothing(text: object) -> None:
    """No peer's text raises, and what is kept of it is short and plain."""
    version = read_version(text)

    if version is not None:
        assert isinstance(text, str)
        assert len(text) <= MOST_CHARACTERS
        assert str(version).isascii()
        assert not set(str(version)) & set("<>&\"' \n")


def test_a_client_that_states_nothing_is_the_last_that_could_not() -> None:
    """Sites that change nothing keep working until a release says otherwise."""
    assert stated(None) == UNSTATED
    assert client_refusal(stated(None), About(Version("0.9"), Version("0.1.0"))) is None
    assert client_refusal(stated(None), About(Version("0.9"), Version("0.2"))) == "client-too-old"
    assert client_refusal(stated("rubbish"), present()) == "client-unreadable"


def test_a_server_that_says_nothing_is_read_as_the_last_that_could_not() -> None:
    """A client may be installed before its server is."""
    assert About.read({"known": True}) == About(UNSTATED, OLDEST_CLIENT)
    about = About(Version("1.4.2"), Version("1.1"))
    assert About.read(about.as_json()) == about


def test_this_release_works_with_itself() -> None:
    """The two constants are not above the release that carries them."""
    assert max(OLDEST_CLIENT, OLDEST_SERVER) <= own_version()
    assert mismatch(own_version(), present()) is None
