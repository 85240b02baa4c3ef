// Everything that the page asks about comparisons: one function per route.

import { api } from "../../../scripts/api.js";
import { stepsOf } from "../progress/progress.js";
import { ask, post, previewAddress } from "../runs/server.js";
import { t } from "../words.js";
import { spread } from "./levels.js";

const MOST = 9; // takes: one for each number key

const path = (id, ...rest) => ["/sidestep/comparisons", encodeURIComponent(id), ...rest].join("/");

/** Every comparison, newest first. */
export const listComparisons = async () => (await ask("/sidestep/comparisons")).comparisons;

/** One comparison; null if it is gone. */
export const readComparison = (id) => ask(path(id));

/** Add a blind vote for a take; return the comparison. */
export const vote = (id, take) => post(path(id, "vote"), { take });

/** Mark a take as the one to keep; return the comparison. */
export const keep = (id, take) => post(path(id, "keep"), { take });

/** A comparison as {id, kind, prompt, facts, takes: [{name, strength, address, lufs, ...}], kept, votes}. */
export const fromComparison = (made) => ({
  ...made,
  kind: "comparison",
  facts: t("Seed {seed}, {steps}, cfg {cfg}",
    { seed: String(made.seed), steps: stepsOf(made.steps), cfg: String(made.cfg) }),
  takes: made.takes.map((take, index) => ({ ...take, address: api.apiURL(path(made.id, "takes", index + 1)) })),
});

/** The previews of a run in the same form, at most nine of them; null if there is none. */
export const readPreviews = async (run) => fromRun(run, await ask(`/sidestep/runs/${encodeURIComponent(run.id)}/takes`));

/** Add a blind vote for the preview of a session; return the session as it is then. */
export const votePreview = async ({ run, takes }, take) =>
  fromRun(run, await post(`/sidestep/runs/${encodeURIComponent(run.id)}/previews/${takes[take - 1].preview}/vote`));

function fromRun(run, made) {
  if (!made.previews.length) return null;
  const shown = spread(made.previews, MOST);
  const facts = [run.name, ...(made.seed === null ? [] : [t("seed {seed}", { seed: String(made.seed) })]),
    ...(shown.length < made.previews.length
      ? [t("{shown} of {n} previews", { shown: shown.length, n: made.previews.length })] : [])].join(", ");
  return {
    id: run.id, kind: "run", run, prompt: made.prompt, kept: null, votes: shown.map(({ votes }) => votes),
    facts,
    takes: shown.map(({ step, lufs }) => ({
      name: step ? t("Step {step}", { step }) : t("Before training"), strength: 0, lufs, preview: step,
      address: previewAddress(run.id, step),
    })),
  };
}
