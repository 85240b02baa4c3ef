// A chart as a picture, and its numbers as a table.

import { number, t } from "../words.js";
import { dots, errorBars, line, ranges, ticksOf } from "./loss_chart.js";
import { measured } from "./progress.js";

const SIZE = [1600, 900]; // of the picture, in pixels
const BOX = { left: 90, top: 70, width: 1470, height: 750 };
const LEADING = ["step", "loss", "smoothed", "heldout", "heldout_error", "lr"]; // columns that come first

/** The points as CSV, a column per number; nothing for one that is missing. */
export function csvText(points) {
  const found = new Set(points.flatMap(Object.keys));
  const columns = [...LEADING.filter((name) => found.has(name)), ...[...found].filter((name) => !LEADING.includes(name)).sort()];
  const cell = (value) => (Number.isFinite(value) ? String(value) : "");
  return [columns.join(","), ...points.map((point) => columns.map((name) => cell(point[name])).join(","))].join("\r\n") + "\r\n";
}

export const csvOf = (points) => new Blob([csvText(points)], { type: "text/csv" });

/** Let the browser save a file. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A picture of the chart as a PNG blob, in the colours of `element`. */
export async function pngOf(state, view, element) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = SIZE;
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(element);
  const colour = (name) => style.getPropertyValue(`--sidestep-${name}`);
  const range = ranges(state.points, view);
  pen.fillStyle = style.getPropertyValue("--comfy-menu-bg") || "#171718";
  pen.fillRect(0, 0, ...SIZE);
  pen.font = "24px Inter, system-ui, sans-serif";
  drawAxes(pen, range, style.color);
  const stroke = (path, name, width, opacity = 1) => drawCurve(pen, path, colour(name), width, opacity);
  stroke(line(state.points, "loss", range), "loss", 1.5, 0.45);
  stroke(line(state.points, "smoothed", range), "loss", 4);
  stroke(errorBars(state.points, range), "heldout", 2);
  stroke(line(state.points, "heldout", range), "heldout", 2);
  stroke(dots(state.points, "heldout", range), "heldout", 12);
  drawText(pen, BOX.left, 44, `${state.run ?? ""}`, style.color);
  pen.textAlign = "right";
  drawText(pen, SIZE[0] - 40, 44, measured(state)[0], colour("heldout"));
  drawText(pen, SIZE[0] - 60 - pen.measureText(measured(state)[0]).width, 44, t("Loss"), colour("loss"));
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function drawAxes(pen, range, colour) {
  pen.strokeStyle = colour;
  pen.globalAlpha = 0.2;
  for (const { label, top } of ticksOf(range)) {
    const y = BOX.top + (BOX.height * top) / 100;
    pen.beginPath();
    pen.moveTo(BOX.left, y);
    pen.lineTo(BOX.left + BOX.width, y);
    pen.stroke();
    pen.globalAlpha = 0.8;
    pen.textAlign = "right";
    drawText(pen, BOX.left - 12, y + 8, label, colour);
    pen.globalAlpha = 0.2;
  }
  pen.globalAlpha = 0.8;
  pen.textAlign = "left";
  drawText(pen, BOX.left, SIZE[1] - 40, t("step {step}", { step: range.x[0] }), colour);
  pen.textAlign = "right";
  drawText(pen, BOX.left + BOX.width, SIZE[1] - 40, number(range.x[1]), colour);
  pen.textAlign = "left";
  pen.globalAlpha = 1;
}

function drawText(pen, x, y, text, colour) {
  pen.fillStyle = colour;
  pen.fillText(text, x, y);
}

/** Stroke a path of the 100 x 100 box, placed into the picture before it is stroked: no line is stretched. */
function drawCurve(pen, data, colour, width, opacity) {
  const path = new Path2D();
  path.addPath(new Path2D(data), new DOMMatrix([BOX.width / 100, 0, 0, BOX.height / 100, BOX.left, BOX.top]));
  pen.lineCap = pen.lineJoin = "round";
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.globalAlpha = opacity;
  pen.stroke(path);
  pen.globalAlpha = 1;
}
