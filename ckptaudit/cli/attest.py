"""`ckptaudit attest`: signed evidence of an audit, to travel with the checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from ckptaudit.cli.output import show
from ckptaudit.errors import AttestationError, printable

HELP = "sign what an audit found about a checkpoint, as an in-toto test result"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The result, the folder, the key, and where to write."""
    add = parser.add_argument
    add("result", type=Path, help="a file that --audit-json wrote, of an audit with --audit-digest")
    add("folder", type=Path, nargs="?", help="the tuned checkpoint (default: the result's)")
    add("--key", type=Path, required=True, metavar="FILE", help="private key in PEM: EC, Ed25519 or RSA")
    add("-o", "--output", type=Path, default=Path("audit.intoto.json"), metavar="FILE", help="default: %(default)s")
    add("--sampled", action="store_true", help="accept a result that ties the folder by its sampled fingerprint")
    add("--model-signature", type=Path, metavar="FILE", help="also sign the files themselves, by model-signing")


def run(options: argparse.Namespace) -> int:
    """Write the envelope, and the model's signature where it was asked for. Raises CkptAuditError."""
    import msgspec

    from ckptaudit.atomic_write import write_bytes
    from ckptaudit.foreign_files.outputs import Output, refuse_unwritable, refuse_what_is_read
    from ckptaudit.release.attesting import Request, attested, within
    from ckptaudit.release.envelope import signed, signer_of
    from ckptaudit.release.model_signing import sign_manifest

    given = {"--output": options.output, "--model-signature": options.model_signature}
    outputs = [Output(path, name) for name, path in given.items() if path is not None]
    refuse_unwritable(outputs)
    refuse_what_is_read(outputs, [options.result, options.key])
    signer = signer_of(options.key)
    beside = tuple(output.path for output in outputs)
    folder, statement = attested(Request(options.result, options.folder, beside, options.sampled))
    if options.model_signature is not None:
        sign_manifest(folder, options.key, options.model_signature, within(folder, beside))
    try:
        write_bytes(options.output, signed(msgspec.json.encode(statement), signer))
    except OSError as error:
        why = printable(error.strerror or error)
        raise AttestationError(f"{printable(options.output)}: cannot be written ({why}).") from None
    facts = statement.predicate.ckptaudit_audit
    show(f"{printable(options.output)}: {statement.predicate.result}, gate {facts.gate}")
    show(f"subject  {printable(statement.subject[0].name)} sha256 {statement.subject[0].digest['sha256']}")
    show(f"tied by  {facts.tied_by}")
    return 0
