"""A first ablation, cell by cell; first_ablation.ipynb is the same for Jupyter, `# %%` makes cells in editors.

Trains four small networks on handwritten digits, in this process, in about a minute on a laptop:

    python examples/first_ablation.py
"""

# %% A space: what varies, in a file of your own. The shipped ones work the same: ablate.load_space("lowpass")
from pathlib import Path

import ablate

Path("first_ablation.yaml").write_text("""\
title: Does adversarial training help, and does a low-pass filter?
base:
  data: {name: digits, image_size: 8}
  model: {width: 0.25, depth: 8}
  training: {epochs: 2, batch_size: 64, crop_padding: 1, flip: false, attack.steps: 1}
  measurement.attacks: [natural, fgsm]
rows:
  - {label: Natural, set: {training.attack.name: none}}
  - {label: Adversarial, set: {}}
  - {label: "Adversarial, filtered", set: {measurement.lowpass_degree: 6}}  # the same network, measured otherwise
claims:
  - {says: "Adversarial training helps", above: {row: Adversarial, rows: [Natural], metrics: [fgsm]}}
""")
space = ablate.load_space("first_ablation.yaml")
print(space, space.rows)

# %% A plan: what a launch would train, and what its rows share. Nothing is trained yet.
plan = space.plan(seeds=[0, 1])
print(plan)
print(plan.trials())
print(plan.estimate())

# %% Run it here, without Ray and MLflow; leave both out of the call to have them.
code = plan.run(local=True, tracking=False)
assert code == 0

# %% The results, as a pandas frame: a line for each row and seed.
results = plan.results()
columns = [column for column in results.columns if column.startswith("accuracy/")]
print(results[columns].groupby("row", sort=False).agg(["mean", "std"]).round(1))

# %% As a picture: a point for each row, with the spread of its seeds. In a notebook the name alone shows it.
picture = plan.figures()["columns"]
Path("first_ablation.png").write_bytes(picture.png)
print(picture.caption)
picture  # noqa: B018

# %% The same call again trains nothing: everything is in storage, by its settings.
again = space.plan(seeds=[0, 1])
assert set(again.trials()["action"]) == {"reuse"}
