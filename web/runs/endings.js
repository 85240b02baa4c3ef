// Pure functions: a training in the title of the page, and its end in a toast.

/** "my_lora" of "my_lora-3f2a91", until the server has answered. */
export const firstName = (run) => run.replace(/-[0-9a-f]{6,}(-\d+)?$/, "");

/** "41 % · my_lora". */
export const progressTitle = ([step, total], name) => `${total ? Math.floor((100 * step) / total) : 0} % · ${name}`;

/** {severity, summary, detail} at the end of a training. */
export function ending({ status, training, message }, name) {
  const [step, total] = training;
  if (status === "finished") {
    return { severity: "success", summary: `${name} is finished`, detail: `${message} Use it in Side-Step, Runs.`.trim() };
  }
  if (status === "cancelled") {
    const detail = "What is done is kept. Continue it in Side-Step, Runs.";
    return { severity: "info", summary: `${name} stopped at step ${step.toLocaleString()} of ${total.toLocaleString()}`, detail };
  }
  return { severity: "error", summary: `${name} failed`, detail: message };
}
