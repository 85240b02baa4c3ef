// "Use it": the adapter of a take, in the workflow.

import { useAdapter } from "../runs/actions.js";
import { t } from "../words.js";

/** Add Load Adapter and Apply Adapter with this file and strength to the workflow; return a sentence. */
export async function use({ adapter_file: file, strength }) {
  const [, apply] = await useAdapter(file);
  apply.widgets.find(({ name }) => name === "strength").value = strength;
  return t("Apply Adapter is in the workflow, with {file} at {strength}. Connect your model to it.",
    { file, strength: String(strength) });
}
