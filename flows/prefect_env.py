"""The environment that makes Prefect ours: our server, our folder, nothing sent anywhere.

Prefect reads its settings when it is imported, so this is set before; it imports no Prefect.
"""

import os
import secrets
from pathlib import Path

from cryptography.fernet import Fernet
from pydantic import SecretStr

from adapters.settings import Settings

_DAY_S = 86_400


def environment(settings: Settings) -> dict[str, str]:
    """Variables for every process that talks to Prefect, or is its server."""
    home = settings.home.absolute() / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    auth = _set(settings.prefect_auth) or _kept(
        home / "auth", f"cloudloom:{secrets.token_urlsafe(24)}"
    )
    key = _set(settings.prefect_key) or _kept(home / "key", Fernet.generate_key().decode())
    database = _set(settings.prefect_database_url) or f"sqlite+aiosqlite:///{home / 'prefect.db'}"
    events_s = settings.prefect_events_days * _DAY_S
    orphans_s = max(1.0, min(1.0, settings.history_days) * _DAY_S)
    api = settings.prefect_url or f"http://127.0.0.1:{settings.prefect_port}/api"
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_API_URL": api,
        "PREFECT_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_API_DATABASE_CONNECTION_URL": database,
        "PREFECT_SERVER_ENCRYPTION_KEY": key,
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"PT{events_s:.0f}S",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,orphans",  # we forget runs ourselves
        "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": f"{min(3600.0, events_s):.0f}",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ORPHAN_CLEANUP_LOOP_SECONDS": f"{orphans_s:.0f}",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",  # our spans are enough
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,adapters",  # what they say is shown beside runs
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLIENT_MAX_RETRIES": "0",  # five would hold up requests and workers for a minute,
        "PREFECT_API_REQUEST_TIMEOUT": "10",  # and so would a server that does not answer
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        **_shared(_set(settings.prefect_redis_url)),
    }


def _shared(redis: str | None) -> dict[str, str]:
    """What Prefect servers of one database tell each other, they tell by way of Redis."""
    if redis is None:
        return {}
    return {
        "PREFECT_REDIS_MESSAGING_URL": redis,
        "PREFECT_SERVER_DOCKET_URL": redis,
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
    }


def _set(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _kept(path: Path, fresh: str) -> str:
    """A value made once and kept, readable by its owner alone."""
    if not path.exists():
        made = path.with_suffix(f".{os.getpid()}")
        made.touch(mode=0o600)
        made.write_text(fresh)
        try:
            os.link(made, path)
        except FileExistsError:
            pass
        finally:
            made.unlink()
    return path.read_text()
