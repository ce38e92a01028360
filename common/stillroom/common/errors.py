"""Every error a person can meet, and what that person should do about it.

* StillroomError
  - ConfigError      somebody wrote something we cannot honour          STR-1xx, exit 2
  - TrustError       a certificate, signature or digest did not hold    STR-2xx, exit 3
  - ContractError    a peer's well-formed message breaks the protocol   STR-3xx, exit 4
  - DataError        a scan or label on disk cannot be used             STR-4xx, exit 5
  - ResourceError    the machine lacks a port, disk, memory or time     STR-5xx, exit 6

Programming mistakes are *not* here: they stay ``TypeError``, ``ValueError`` or
``AssertionError`` and are allowed to crash.

``CODES`` is the whole list. A code is stable once released: it is what hospital IT
searches for, and docs/reference/errors.md is generated from it.
"""

from typing import ClassVar

from typing_extensions import override

CODES: dict[str, str] = {
    # 1xx: configuration
    "STR-100": "The command line or configuration cannot be used.",
    "STR-101": "A file named in the configuration cannot be read.",
    "STR-102": "A configuration or study file has an unknown, missing or invalid key.",
    "STR-103": "A stage names a teacher or artefact that no earlier stage produces.",
    "STR-104": "A stage trains a label that no site owns.",
    "STR-105": "The model exceeds the study's limit for one update.",
    "STR-106": "A patch or window size does not fit the model.",
    "STR-107": "The output folder already holds something else.",
    "STR-108": "The registry holds no such site or operator, or it is in another state.",
    "STR-110": "A folder that this program works in cannot be written.",
    "STR-111": "The GPU that is asked for is not there or cannot be used.",
    "STR-112": "A folder with scans is missing or cannot be read.",
    # 2xx: trust
    "STR-200": "A peer's identity or a payload's integrity is not proven.",
    "STR-201": "A certificate was not issued by this consortium, has expired, or is for another role.",
    "STR-202": "A private key is readable by others.",
    "STR-203": "A certificate and a key do not belong together.",
    "STR-204": "Weights or a study file do not have the digest they should have.",
    "STR-205": "The server asked for work outside the study this site accepted.",
    "STR-206": "A site is not registered with this server, or its certificate names another site.",
    "STR-207": "A signature does not hold, or is not over what it should be.",
    "STR-208": "This site has not consented to the study, or its consent has expired or was withdrawn.",
    "STR-209": "The study is not signed by an operator of the consortium this site joined.",
    "STR-210": "The study has expired.",
    "STR-211": "The invitation or request for enrolment was not accepted.",
    "STR-212": "A fingerprint is not the expected one.",
    "STR-213": "This site has joined no consortium, so nobody's signature can be checked.",
    "STR-214": "A description of the consortium does not follow from the one this site has.",
    "STR-215": "All noised updates that a stage's epsilon accounts for have left this site.",
    "STR-216": "The server does not take a client of this release.",
    "STR-217": "The server runs a release that is too old for this client.",
    "STR-220": "The site's ledger is damaged.",
    "STR-221": "The log does not continue what was promised of it.",
    "STR-222": "The log, or a file that should agree with it, does not hold.",
    "STR-223": "Too few sites have cosigned the log for the study's quorum.",
    "STR-224": "A generative model has not been shown to repeat no scan, and is not released.",
    # 3xx: contract
    "STR-300": "A message breaks the protocol.",
    "STR-301": "An update has missing, extra or renamed tensors.",
    "STR-302": "A tensor has another shape or dtype than the manifest says.",
    "STR-303": "A tensor holds NaN, infinity, subnormal numbers in mass, or is too large.",
    "STR-304": "A metric or count is not on the whitelist or not a finite number.",
    "STR-305": "No site returned a usable update for this round.",
    "STR-306": "Too few sites answered for the study's quorum.",
    "STR-307": "A reply is not the answer to the message it says it answers.",
    "STR-311": "A file of weights is missing or is not what its name says.",
    "STR-312": "A file of weights is larger than the server takes.",
    # 4xx: data
    "STR-400": "A scan or label cannot be used.",
    "STR-401": "No usable case for this stage.",
    "STR-410": "The file cannot be read as an image.",
    "STR-411": "The modality is not CT.",
    "STR-412": "A localiser (scout) image.",
    "STR-413": "The gantry was tilted: slices are not stacked along their normal.",
    "STR-414": "Slices are missing.",
    "STR-415": "Two slices lie at the same position.",
    "STR-416": "The spacing between slices is irregular.",
    "STR-417": "Slices of different orientation or size in one series.",
    "STR-418": "Pixel data is truncated or cannot be decoded.",
    "STR-419": "No rescale slope and intercept: values are not Hounsfield units.",
    "STR-420": "Too few slices.",
    "STR-421": "The field of view does not hold the region asked for.",
    "STR-422": "The decompressed image would exceed the size limit.",
    "STR-423": "A burned-in annotation, secondary capture or derived image.",
    "STR-430": "A label matches no accepted scan.",
    "STR-431": "A label cannot be read or holds none of the expected classes.",
    "STR-432": "A label lies outside its scan or on another frame of reference.",
    "STR-433": "A label matches more than one scan.",
    "STR-440": "The PACS cannot be reached, or broke the connection off.",
    "STR-441": "The PACS does not answer to the AE title it was called by.",
    "STR-442": "The PACS does not know this site's AE title.",
    "STR-443": "The PACS rejected the association, or does not offer the service that was asked for.",
    "STR-444": "The PACS refused this site's name, password or token.",
    "STR-445": "The PACS's certificate is not trusted, or it did not take this site's.",
    "STR-446": "A query would match too much.",
    "STR-447": "A list of studies cannot be read.",
    "STR-448": "The PACS holds nothing that matches.",
    "STR-449": "Fewer instances arrived than the PACS states.",
    "STR-450": "The PACS may be asked only at other hours.",
    "STR-451": "The PACS could not send to this machine.",
    "STR-452": "No room is left in the folder that receives scans, or it cannot be written.",
    "STR-453": "The PACS answered with an error, or with something that is no answer.",
    "STR-454": "Another pull works in this folder.",
    "STR-455": "The journal of a pull is damaged.",
    "STR-456": "The PACS sent an object that was not asked for, or of a kind that is not kept.",
    # 5xx: resources
    "STR-500": "The machine lacks something.",
    "STR-501": "A port is already in use.",
    "STR-502": "A process did not become ready or ended early.",
    "STR-503": "Not enough memory or disk.",
    "STR-504": "The server cannot be reached.",
    "STR-505": "The program failed in a way it did not expect; details are in its own log.",
    "STR-506": "The proxy between this machine and the server refused the connection.",
    "STR-507": "Another process is writing this site's ledger.",
    "STR-508": "Somebody stopped the run.",
    "STR-511": "The runner of this site is not running.",
    "STR-512": "Another process works in this run's folder.",
    "STR-513": "Another runner works for this site.",
    "STR-514": "The record of a run is damaged, or belongs to another study.",
    "STR-515": "This site is paused.",
    "STR-516": "A courier with this site's identity runs on another machine.",
    "STR-520": "A process of this machine does not answer.",
    "STR-525": "A page would be open to other machines without a password and TLS.",
    "STR-526": "The password file of a page cannot be used.",
}


class StillroomError(Exception):
    """Base of all expected failures.

    Args:
        what: What happened, in one sentence, with expected and actual.
        fix: What the reader can do now, in one imperative sentence.
        code: A key of ``CODES``; the family's own code when left out.

    ``what`` must never carry patient data: no pixel values, no DICOM tag values,
    no names of files that came with a scan.
    """

    default_code: ClassVar[str] = "STR-100"
    exit_status: ClassVar[int] = 1

    def __init__(self, what: str, *, fix: str, code: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix
        self.code = code or self.default_code
        if self.code not in CODES:
            raise ValueError(f"{self.code} is not a registered error code")

    @override
    def __str__(self) -> str:
        return f"{self.code}: {self.what} {self.fix}"


class ConfigError(StillroomError):
    """Raised when a configuration, study file or command line cannot be honoured."""

    default_code = "STR-100"
    exit_status = 2


class TrustError(StillroomError):
    """Raised when a peer's identity or a payload's integrity is not proven."""

    default_code = "STR-200"
    exit_status = 3


class ContractError(StillroomError):
    """Raised when a peer's message breaks the round contract."""

    default_code = "STR-300"
    exit_status = 4


class DataError(StillroomError):
    """Raised when a scan or a label cannot be used."""

    default_code = "STR-400"
    exit_status = 5


class ResourceError(StillroomError):
    """Raised when the machine lacks a port, disk, memory or time."""

    default_code = "STR-500"
    exit_status = 6
