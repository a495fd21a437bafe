import type { CapacityAnswer, CapacityOutput, FreeByLevel, FreeDevices } from "../../api/capacity.ts";
import type { Placement } from "../../api/placement.ts";
import { outlookSentences } from "../../gang/outlook-text.ts";
import { compareNatural } from "../../topology/natural-order.ts";
import { plural, wrap } from "../text.ts";

/** Copies that are told one by one; the JSON has all. */
const shownCopies = 5;

/** The answer as lines for people: what fits how often and where, what does not and why, and what is free. */
export function capacityText({ answers, free }: CapacityOutput, width: number): string {
  const fits = answers.filter(({ copies }) => copies > 0).map((answer) => fittingText(answer, width));
  const not = answers.filter(({ copies }) => copies === 0).map((answer) => refusedText(answer, width));
  const blocks = [
    ...(fits.length === 0 ? [] : [`Fits\n${fits.join("\n")}`]),
    ...(not.length === 0 ? [] : [`Does not fit\n${not.join("\n")}`]),
    `Free devices\n${free.length === 0 ? "  none are published" : free.map(freeText).join("\n")}`,
  ];
  return `${blocks.join("\n\n")}\n`;
}

function fittingText(answer: CapacityAnswer, width: number): string {
  const { copies, placements } = answer;
  const shown = placements.slice(0, shownCopies).flatMap((gangs, i) => copyLines(gangs, i + 1, width));
  const rest = copies > shownCopies ? [`    … ${copies - shownCopies} more, in the JSON`] : [];
  return [`  ${titleOf(answer)}  ${times(answer)}`, ...shown, ...rest, ...whyNotMore(answer, width)].join("\n");
}

function titleOf({ kind, namespace, name }: CapacityAnswer): string {
  return `${kind} ${namespace}/${name}`;
}

function times({ copies, stoppedBy }: CapacityAnswer): string {
  const count = copies === 1 ? "once" : `${copies} times`;
  return stoppedBy === "room" ? count : `at least ${count}`;
}

function copyLines(gangs: readonly Placement[], number: number, width: number): string[] {
  return gangs.map((placement, i) => {
    const shared = Object.entries(placement.domains).at(-1);
    const where = shared === undefined ? "" : ` in ${shared[0]} ${shared[1].slice(shared[1].lastIndexOf("/") + 1)}`;
    const nodes = [...new Set(placement.pods.map(({ node }) => node))].sort(compareNatural).join(" ");
    const who = gangs.length > 1 ? `${placement.gang}: ` : "";
    const text = `${who}${plural(placement.pods.length, "pod")}${where} on ${nodes}`;
    return hanging(i === 0 ? `${number}. ` : "   ", text, width);
  });
}

/** Text behind a mark, its further lines below its first word. */
function hanging(mark: string, text: string, width: number): string {
  const indent = " ".repeat(4 + mark.length);
  return `    ${mark}${wrap(text, width, indent).trimStart()}`;
}

function whyNotMore({ copies, stoppedBy, rejections }: CapacityAnswer, width: number): string[] {
  if (stoppedBy === "limit") return [`    more were not tried; --limit says how many are`];
  if (stoppedBy === "time") return ["    time was up before more were tried"];
  const messages = new Set(rejections.map(({ message }) => message));
  return [...messages].map((message) => hanging(`${copies + 1}. `, `not placed: ${message}`, width));
}

function refusedText(answer: CapacityAnswer, width: number): string {
  const lines = answer.rejections.flatMap(({ gang, reason, message, counterfactuals }) => [
    `    ${answer.rejections.length > 1 ? `${gang}: ` : ""}${reason}`,
    wrap(message, width, "      "),
    ...outlookSentences(counterfactuals).map((text) => wrap(text, width, "      ")),
  ]);
  return [`  ${titleOf(answer)}`, ...lines].join("\n");
}

function freeText({ deviceClass, product, total, free, nodesByFree, levels }: FreeDevices): string {
  const hosts = levels.findIndex(({ level }) => level === "host");
  const [broad, narrow] = hosts < 0 ? [levels, []] : [levels.slice(0, hosts), levels.slice(hosts + 1)];
  // What all of them share tells nothing, unless there is nothing else; nor do domains inside hosts that are as large, or of one.
  const broader = broad.filter(({ domainsByFree }, i) => i === broad.length - 1 || sum(domainsByFree) > 1);
  const nodes = counts(nodesByFree);
  const inside = narrow.filter(({ domainsByFree, largest }) => largest.free > 1 && counts(domainsByFree) !== nodes);
  const all =
    free === 0 ? [] : [...inside.toReversed().map(rowOf), ["node", nodes] as const, ...broader.toReversed().map(rowOf)];
  const width = Math.max(0, ...all.map(([name]) => name.length));
  const title = product === "" ? deviceClass : `${deviceClass}, ${product}`;
  return [
    `  ${title}: ${free} of ${total} free`,
    ...all.map(([name, text]) => `    ${name.padEnd(width)}  ${text}`),
  ].join("\n");
}

function rowOf({ level, domainsByFree, largest }: FreeByLevel): readonly [string, string] {
  const several = Object.keys(domainsByFree).length > 1;
  return [level, `${counts(domainsByFree)}${several ? `; most in ${largest.domain}` : ""}`];
}

/** `12 with 8, 1 with 4`: most devices first. */
function counts(numbers: Readonly<Record<string, number>>): string {
  return Object.entries(numbers)
    .sort(([a], [b]) => Number(b) - Number(a))
    .map(([devices, number]) => `${number} with ${devices}`)
    .join(", ");
}

function sum(numbers: Readonly<Record<string, number>>): number {
  return Object.values(numbers).reduce((all, each) => all + each, 0);
}
