// Texts of the page in the language of ComfyUI's settings.  The code has them in English, and the English text is the
// key of the translations in words/<language>.json, which are read before ComfyUI makes any node.

const TRANSLATED = new Set(["es", "fr", "ja", "zh"]);
const READABLE = 1e21; // from there on, a number has an exponent

let language = "en";
let words = {};

/** Read the texts of a language.  One that is not translated stays English, and nothing is asked for. */
export async function loadWords(chosen) {
  if (!TRANSLATED.has(chosen)) return;
  const file = new URL(`./words/${chosen}.json`, import.meta.url);
  const response = await fetch(file, { cache: "no-cache" }); // else it could be older than the code
  if (!response.ok) throw new Error(`Side-Step has no texts in this language: ${response.status} ${file}`);
  words = await response.json();
  language = chosen;
}

/** A text, with values in place of their {names}; numbers are written as the language does. */
export const t = (text, values = {}) => filled(words[text] ?? text, values);

/** A text in the form that goes with the number `n`, which is {n} in it. */
export function plural(n, one, many, values = {}) {
  const forms = words[many] ?? { one, other: many };
  const form = new Intl.PluralRules(language).select(n);
  return filled(forms[form] ?? forms.other, { n, ...values });
}

/** A sentence of the server, which is made in the same way: {text, values, one}.  Anything else stays as it is. */
export function worded(sentence) {
  if (typeof sentence?.text !== "string") return String(sentence);
  const { text, values, one } = sentence;
  return one ? plural(values.n, one, text, values) : t(text, values);
}

/** A number as the language writes it; options as of Intl.NumberFormat. */
export const number = (value, options) => value.toLocaleString(locale(), options);

/** A number with so many decimals. */
export const fixed = (value, digits) => (Math.abs(value) < READABLE
  ? number(value, { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: false }) : String(value));

/** Locale of numbers and dates: of those that the browser prefers, the first of the language, such as en-GB. */
export const locale = () => navigator.languages.find((each) => each.split("-")[0] === language) ?? language;

const filled = (text, values) => text.replaceAll(/\{(\w+)\}/g, (_, name) =>
  (typeof values[name] === "number" ? number(values[name]) : worded(values[name])));
