"""What a bundle says of itself to others' tools: RO-Crate metadata. `make` alone needs the package for it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

from ablate.core.errors import SpecError
from ablate.core.text import plural
from ablate.storage.plans import PlanFile

METADATA = "ro-crate-metadata.json"
_KINDS = {"json": "application/json", "npz": "application/octet-stream"}


def metadata(plan: PlanFile, sizes: Mapping[str, int], needs: Sequence[str] = ()) -> bytes:
    """The metadata of a bundle: the same for the same plan and files.

    Args:
        plan: What it is of.
        sizes: File -> bytes, of all that is in it.
        needs: Other bundles that hold trainings of it.

    Returns:
        JSON-LD. A training's records are described together, by their folder.

    Raises:
        SpecError: The package is not there.
    """
    try:
        from rocrate.model.contextentity import ContextEntity
        from rocrate.rocrate import ROCrate
    except ImportError as error:
        raise SpecError("expected rocrate, which describes a bundle, got none; pip install rocrate") from error
    crate = ROCrate()
    day = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(plan.launched_ms / 1000))
    crate.name = "; ".join(f"{space.name}: {space.title}" for space in plan.spaces)
    data = ", ".join(plan.data_labels)
    trainings = plan.trainings()
    crate.description = (
        f"Records of {plural(len(plan.trials), 'trial')} of {plural(len(trainings), 'training')} on {data}, "
        f"preset {plan.preset}, seeds {', '.join(map(str, plan.seeds))}; python -m ablate.bundle verify recomputes "
        "every number of it."
    )
    # That of the launch, and not of the writing: the same results are the same bytes.
    crate.root_dataset["datePublished"] = day
    if needs:
        crate.root_dataset["isBasedOn"] = list(needs)
    versions = {name: plan.provenance[name] for name in sorted(plan.provenance) if name != "command"}
    about = {"@type": "SoftwareApplication", "name": "ablate", "softwareVersion": versions.get("ablate", "")}
    program = crate.add(ContextEntity(crate, "#ablate", properties=about))
    environment = json.dumps(versions, sort_keys=True)
    ran = {
        "@type": "CreateAction",
        "name": f"plan {plan.id}",
        "endTime": day,
        "description": plan.provenance.get("command", ""),
        "actionStatus": "http://schema.org/CompletedActionStatus",
        "environment": environment,
    }
    action = crate.add(ContextEntity(crate, f"#plan-{plan.id}", properties=ran))
    action["instrument"] = program
    folders: dict[str, int] = {}
    for name, size in sorted(sizes.items()):
        folder = "/".join(name.split("/")[:2])
        inner = folder.partition("/")[2]
        if inner in trainings or inner == "replications":
            folders[folder] = folders.get(folder, 0) + size
        else:
            kind = _KINDS.get(name.rpartition(".")[2], "text/plain")
            crate.add_file(dest_path=name, properties={"contentSize": str(size), "encodingFormat": kind})
    for folder, size in sorted(folders.items()):
        rows = [f"{t.space}/{t.row}, seed {t.seed}" for t in trainings.get(folder.partition("/")[2], ())]
        told = "; ".join(rows) or "what came out when trainings were trained again"
        crate.add_dataset(dest_path=f"{folder}/", properties={"contentSize": str(size), "name": told})
    action["result"] = crate.root_dataset
    found = crate.metadata.generate()
    found["@graph"] = sorted(found["@graph"], key=lambda entity: (entity["@id"] != METADATA, entity["@id"]))
    return json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False).encode()
