// Pure functions: a training in the title of the page, and its end in a toast.

import { messageOf } from "../progress/progress.js";
import { t } from "../words.js";

/** "my_lora" of "my_lora-3f2a91", until the server has answered. */
export const firstName = (run) => run.replace(/-[0-9a-f]{6,}(-\d+)?$/, "");

/** "41 % · my_lora". */
export const progressTitle = ([step, total], name) => `${total ? Math.floor((100 * step) / total) : 0} % · ${name}`;

/** {severity, summary, detail} at the end of a training. */
export function ending(event, name) {
  const { status, training: [step, total] } = event;
  const message = messageOf(event);
  if (status === "finished") {
    const detail = `${message} ${t("Use it in Side-Step, Runs.")}`.trim();
    return { severity: "success", summary: t("{name} is finished", { name }), detail };
  }
  if (status === "cancelled") {
    return { severity: "info", summary: t("{name} stopped at step {step} of {total}", { name, step, total }),
      detail: t("What is done is kept. Continue it in Side-Step, Runs.") };
  }
  return { severity: "error", summary: t("{name} failed", { name }), detail: message };
}
