"""A first ablation, cell by cell; `# %%` makes cells in VS Code, PyCharm and Jupytext.

Trains two small networks on handwritten digits, in this process, in about a minute on a laptop:

    python examples/first_ablation.py
"""

# %% A space: what varies. Any file of your own works the same: ablate.load_space("my_ablation.yaml")
import ablate

space = ablate.load_space("lowpass")
print(space, space.rows)

# %% A plan: what a launch would train, and what its rows share. Nothing is trained yet.
small = {"training.epochs": 2, "model.width": 0.25, "data.image_size": 8, "training.attack.steps": 1}
small |= {"measurement.lowpass_degree": 6, "measurement.attacks": ["natural", "fgsm"]}
plan = space.plan(preset="smoke", sets=small, seeds=[0, 1])
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

# %% The same call again trains nothing: everything is in storage, by its settings.
again = space.plan(preset="smoke", sets=small, seeds=[0, 1])
assert set(again.trials()["action"]) == {"reuse"}
