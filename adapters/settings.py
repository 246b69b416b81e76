"""What an operator can set: environment variables named `CLOUDLOOM_...`."""

from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from adapters.types import Role


class Settings(BaseSettings):
    """Every setting, with its default; `deployments/README.md` lists them."""

    model_config = SettingsConfigDict(env_prefix="CLOUDLOOM_", extra="ignore")

    home: Path = Field(Path("build/cloudloom"), description="Folder of everything that is kept.")
    database_url: str = Field(
        "",
        repr=False,
        description="Platform database; empty: SQLite in `home`. `mysql+pymysql://...`.",
    )
    secret_keys: SecretStr | None = Field(
        None,
        description="Fernet keys, comma-separated, newest first; unset: `home/secret.key`.",
    )
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(7410, description="The API's port.")
    public_url: str = Field("", description="How clients reach the API; empty: host and port.")
    tls_certificate: Path | None = Field(
        None, description="PEM file of the API's certificate and those above it; unset: no TLS."
    )
    tls_key: Path | None = Field(
        None, description="PEM file of its key; unset: in the certificate's file."
    )
    ca: Path | None = Field(
        None, description="PEM file of who the command line believes; unset: the system's."
    )
    cors_origins: str = Field(
        "", description="Other sites whose pages may use the API, comma-separated; empty: none."
    )
    prefect_port: int = Field(7411, description="Port of the embedded Prefect server.")
    prefect_url: str = Field("", description="An external Prefect server's API; empty: embedded.")
    prefect_database_url: SecretStr | None = Field(
        None,
        description="Prefect's PostgreSQL; unset: SQLite in `home`. `postgresql+asyncpg://...`.",
    )
    prefect_redis_url: SecretStr | None = Field(
        None, description="Redis between Prefect servers of one PostgreSQL. `redis://...`."
    )
    prefect_auth: SecretStr | None = Field(
        None, description="`user:password` that Prefect asks for; unset: `home/prefect/auth`."
    )
    prefect_key: SecretStr | None = Field(
        None, description="Fernet key of Prefect's own secrets; unset: `home/prefect/key`."
    )
    datacenter: str = Field("main", description="The datacenter whose work a worker takes.")
    queues: str = Field(
        "", description="Queues that a worker takes from, comma-separated; empty: all."
    )
    slots: int = Field(2, gt=0, description="Flow runs at once in one worker.")
    child_memory_mib: int = Field(
        512, gt=0, description="A worker's process is replaced once it has grown beyond this."
    )
    shutdown_s: float = Field(
        30.0, ge=0, description="How long a worker that is told to stop lets operations go on."
    )
    lease_s: float = Field(15.0, gt=0, description="How long a silent runner keeps an operation.")
    retries: int = Field(3, ge=0, description="How often a step is tried again when Transient.")
    retry_delay_s: float = Field(1.0, ge=0, description="First pause before that; then doubled.")
    retry_delay_max_s: float = Field(30.0, ge=0, description="Longest such pause.")
    backend_timeout_s: float = Field(
        60.0, ge=0, description="Longest a backend call may land late; receipts wait for it."
    )
    sessions_per_host: int = Field(2, gt=0, description="Operations at once on one host.")
    sessions_per_repository: int = Field(
        2, gt=0, description="Images read at once in one repository."
    )
    conversions_per_repository: int = Field(
        1, gt=0, description="Images converted at once in one repository; enterprises take turns."
    )
    rescan: bool = Field(
        default=False,
        description="Whether inboxes of repositories are rescanned every hour, unasked.",
    )
    inbox_quiet_s: float = Field(
        60.0, ge=0, description="How long what is in an inbox has to be unchanged to be taken."
    )
    session_s: float = Field(
        43_200.0, gt=0, description="How long a user who has logged in stays so at most."
    )
    session_idle_s: float = Field(
        1800.0, ge=120, description="How long he stays so without asking for anything."
    )
    approval_timeout_s: float = Field(
        7 * 86400.0, gt=0, description="How long an operation waits for approval."
    )
    plan_valid_s: float = Field(
        900.0, gt=0, description="How long a plan that was shown (`dry_run`) may be carried out."
    )
    power_off_timeout_s: float = Field(
        30.0, ge=0, description="How long a guest may take to shut down before it is forced."
    )
    lease_wait_s: float = Field(
        120.0,
        ge=0,
        description="How long a guest may take to ask for its address, where a deployment waits.",
    )
    release_s: float = Field(
        60.0, ge=0, description="How long a running guest may take to release a volume or NIC."
    )
    cpu_overcommit: float = Field(
        4.0,
        gt=0,
        description="Virtual CPUs that a physical one may carry where no load rule says.",
    )
    image_tool: str = Field(
        "qemu-img", description="`qemu-img`, or `memory` for simulated images (tests, simulation)."
    )
    simulation: Path | None = Field(
        None, description="File of the simulated hosts and storage; unset: in `home`."
    )
    domain_type: str = Field("qemu", description="libvirt's domain type: `qemu` or `kvm`.")
    max_virtual_mib: int = Field(
        4 * 1024 * 1024, gt=0, description="Largest disk that an imported image may have."
    )
    max_upload_mib: int = Field(
        1024 * 1024, gt=0, description="Largest file that is uploaded or downloaded."
    )
    download_proxy: SecretStr | None = Field(
        None, description="Proxy that downloads go by, and that guards the inside; unset: none."
    )
    download_networks: str = Field(
        "",
        description="Networks that are downloaded from though not public, comma-separated:"
        " `10.1.0.0/16`; empty: none.",
    )
    download_connect_s: float = Field(
        30.0, gt=0, description="How long a server may take to let a download begin."
    )
    download_silence_s: float = Field(
        60.0, gt=0, description="How long it may say nothing while one is under way."
    )
    download_s: float = Field(
        86_400.0, gt=0, description="How long all downloads of one operation may take."
    )
    package_certificates: Path | None = Field(
        None, description="PEM file of those who may have signed packages; unset: anybody, nobody."
    )
    package_days: float = Field(
        1.0, gt=0, description="Days that a package which was made waits to be fetched."
    )
    rate_per_s: float = Field(
        100.0,
        ge=0,
        description="Requests a second of one token at one API process; 0: any number.",
    )
    rate_burst: int = Field(1000, gt=0, description="How many of them may come at once.")
    address_rate_per_s: float = Field(
        20.0, ge=0, description="The same for requests without a good token, by their address."
    )
    address_rate_burst: int = Field(200, gt=0, description="How many of those may come at once.")
    consoles: int = Field(64, ge=0, description="Consoles open at once in one API process.")
    console_idle_s: float = Field(
        600.0, gt=0, description="A console is closed when nothing has passed for so long."
    )
    console_origins: str = Field(
        "",
        description="Other sites whose pages may open consoles, comma-separated: `https://...`.",
    )
    host_root: Path = Field(
        Path("/"),
        description="Where this machine's `/etc` is, in which its networks last.",
    )
    ovs_database: str = Field(
        "", description="Open vSwitch's database on hosts; empty: where it is usually. `unix:...`."
    )
    program_timeout_s: float = Field(
        6 * 3600.0, gt=0, description="CPU seconds that an external program may use."
    )
    program_memory_mib: int = Field(
        2048, gt=0, description="Address space that an external program may use."
    )

    low_space_percent: float = Field(
        10.0, ge=0, le=100, description="Less free room than this is reported."
    )
    history_days: float = Field(
        30.0, gt=0, description="How long ended operations and their runs in Prefect are kept."
    )
    evidence_days: float = Field(
        365.0, gt=0, description="How long those are kept that left something behind."
    )
    event_days: float = Field(
        365.0, gt=0, description="How long events are kept: who did what, when."
    )
    idempotency_days: float = Field(
        7.0, gt=0, description="How long an `Idempotency-Key` is remembered."
    )
    prefect_events_days: float = Field(
        7.0, gt=0, description="How long the embedded Prefect server keeps events."
    )
    sweep_removes: bool = Field(
        False,  # noqa: FBT003 - a default
        description="Whether what no row explains is removed, and not only reported.",
    )
    sweep_max_percent: float = Field(
        20.0, ge=0, le=100, description="Nothing is removed when more than this share would go."
    )
    scratch_hours: float = Field(
        24.0, ge=0, description="How long half-done work in a repository is left to its maker."
    )
    verify_mib: int = Field(
        65_536, gt=0, description="How much of a library is read again a day, to verify it."
    )
    conversion_days: float = Field(
        0.0, ge=0, description="How long a conversion that no disk needs is kept; 0: for ever."
    )

    log_format: Literal["", "json", "text"] = Field(
        "", description="How logs are written; empty: `text` on a terminal, else `json`."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="From which level on Cloudloom's own logs are written."
    )
    otlp_endpoint: str = Field(
        "",
        repr=False,
        description="Where traces go, by OTLP over HTTP: `http://127.0.0.1:4318`; empty: nowhere,"
        " unless OpenTelemetry's own `OTEL_EXPORTER_OTLP_ENDPOINT` is set.",
    )

    @field_validator("download_networks")
    @classmethod
    def _are_networks(cls, said: str) -> str:
        for each in cls.listed(said):
            ip_network(each)
        return said

    @field_validator("download_proxy")
    @classmethod
    def _is_a_proxy(cls, said: SecretStr | None) -> SecretStr | None:
        if said and not said.get_secret_value().startswith(("http://", "https://")):
            raise ValueError("a proxy is spoken to by http or https")
        return said

    def variables(self) -> dict[str, str]:
        """What is set here, as the environment of another process of ours."""
        kept = {name: getattr(self, name) for name in self.model_fields_set}
        kept["home"] = self.home.absolute()
        return {
            f"CLOUDLOOM_{name.upper()}": str(
                value.get_secret_value() if isinstance(value, SecretStr) else value
            )
            for name, value in kept.items()
            if value is not None
        }

    @staticmethod
    def listed(text: str) -> list[str]:
        """What a comma-separated setting lists."""
        return [each.strip() for each in text.split(",") if each.strip()]

    @property
    def roles(self) -> list[Role]:
        """What a worker serves; nothing means everything."""
        return [Role(each) for each in self.listed(self.queues)]

    @property
    def database(self) -> str:
        """The platform database's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.home.absolute() / 'cloudloom.sqlite'}"

    @property
    def api_url(self) -> str:
        """Where clients reach the API."""
        scheme = "https" if self.tls_certificate else "http"
        return self.public_url or f"{scheme}://{self.host}:{self.port}"

    @property
    def prefect_ui(self) -> str:
        """Where the Prefect UI is."""
        return self.prefect_url.removesuffix("/api") or f"http://127.0.0.1:{self.prefect_port}"


@cache
def settings() -> Settings:
    """This process's settings, read once."""
    return Settings()
