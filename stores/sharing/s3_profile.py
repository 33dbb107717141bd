"""The keys of an AWS profile, which obstore does not read by itself; those of the environment it does."""

import configparser
import os
from pathlib import Path

from backdrop.errors import UserError

SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_TOKEN")
FIELDS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "region": "region",
    "endpoint_url": "endpoint",
}


def settings_of_profile() -> dict[str, str]:
    """Settings of the profile in use, by obstore's names.

    As with the AWS tools, keys in the environment win unless AWS_PROFILE is set; without either the profile "default"
    is looked at, if there is one.

    Raises:
        UserError: AWS_PROFILE names a profile that is not there, or that has no keys of its own.
    """
    profile = os.environ.get("AWS_PROFILE")
    if not profile and os.environ.get("AWS_ACCESS_KEY_ID"):
        return {}
    values: dict[str, str] = {}
    for variable, name, section in (
        ("AWS_CONFIG_FILE", "config", f"profile {profile}" if profile not in (None, "", "default") else "default"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", profile or "default"),
    ):
        values |= _section(Path(os.environ.get(variable) or Path.home() / ".aws" / name), section)
    settings = {ours: values[theirs] for theirs, ours in FIELDS.items() if values.get(theirs)}
    if profile and not {"access_key_id", "secret_access_key"} <= settings.keys():
        raise UserError(
            f"AWS_PROFILE is {profile!r}, a profile that is not there or has no keys of its own; put the keys it "
            f"stands for into the environment: aws configure export-credentials --profile {profile} --format env"
        )
    return settings


def _section(file: Path, name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read(file)
    except (configparser.Error, UnicodeDecodeError):
        # The parser's own message quotes the line it does not understand, which may be a key.
        raise UserError(f"{file} cannot be read as an AWS configuration file") from None
    return dict(parser[name]) if parser.has_section(name) else {}
