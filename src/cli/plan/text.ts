import type { PlacedPod, Placement, PlanOutput, Rejection, Wish } from "../../api/placement.ts";
import { outlookSentences } from "../../gang/outlook-text.ts";
import { amountText } from "../../gang/shape-text.ts";
import { compareNatural } from "../../topology/natural-order.ts";
import { plural, wrap } from "../text.ts";

export interface PlanTextOptions {
  /** Columns of the terminal. */
  width: number;
  /** Also what each answer rests on. */
  explain: boolean;
}

/** The answer as lines for people: every pod with its node and devices, and why the others have none. */
export function planText(output: PlanOutput, options: PlanTextOptions): string {
  const { placements, rejections } = output;
  const placed = placements.map((placement) => placementText(placement, options));
  const refused = rejections.map((rejection) => rejectionText(rejection, options));
  const blocks = [
    ...(placed.length === 0 ? [] : [`Placed\n${placed.join("\n")}`]),
    ...(refused.length === 0 ? [] : [`Not placed\n${refused.join("\n")}`]),
    summary(output),
  ];
  return `${blocks.join("\n\n")}\n`;
}

function placementText(placement: Placement, options: PlanTextOptions): string {
  const { gang, namespace, pods, placementGroup, role } = placement;
  const part = placementGroup === undefined ? "" : `, ${role ?? "member"} of ${placementGroup}`;
  const shared = narrowest(placement);
  const where = shared === undefined ? "" : `, in ${shared}`;
  const names = pods.map((pod) => pod.pod);
  const widths = [Math.max(...names.map((name) => name.length)), Math.max(...pods.map(({ node }) => node.length))];
  const lines = pods.map((pod) => `    ${pod.pod.padEnd(widths[0]!)}  ${pod.node.padEnd(widths[1]!)}  ${devices(pod)}`);
  const explained = options.explain ? costLines(placement) : [];
  return [`  ${namespace}/${gang}  ${plural(pods.length, "pod")}${where}${part}`, ...lines, ...explained]
    .map((line) => line.trimEnd())
    .join("\n");
}

function devices({ claims }: PlacedPod): string {
  return claims
    .map(
      ({ reference, devices: held }) =>
        `${reference}: ${held
          .map(({ device }) => device)
          .sort(compareNatural)
          .join(" ")}`,
    )
    .join("; ");
}

/** The narrowest domain that holds all pods of the gang, by its own name. */
function narrowest({ domains }: Placement): string | undefined {
  const [level, path] = Object.entries(domains).at(-1) ?? [];
  return level === undefined ? undefined : `${level} ${path?.slice(path.lastIndexOf("/") + 1)}`;
}

const better: Readonly<Record<Wish, string>> = {
  PreferredRules: "more preferred rules can be kept",
  Surplus: "more of the surplus fits",
  Traffic: "traffic can cost less",
  Compactness: "narrower domains hold the pods",
};

function costLines({ cost, domains, budgetExceeded = [] }: Placement): string[] {
  const path = Object.values(domains).at(-1);
  return [
    ...(path === undefined ? [] : [`    shares ${path}`]),
    ...(cost.byLink.length === 0 ? [] : [`    predicted ${rounded(cost.totalMs)} ms`]),
    ...cost.byLink.map(
      (link) => `      ${link.from} → ${link.to} over ${link.level}: ${rounded(link.milliseconds)} ms`,
    ),
    ...cost.assumes.map((assumption) => `      assumes ${assumption}`),
    ...(cost.unpriced ?? []).map((traffic) => `      not priced: ${traffic}`),
    ...budgetExceeded.map((wish) => `    the search used up its budget before it knew whether ${better[wish]}`),
  ];
}

function rounded(milliseconds: number): number {
  return Math.round(milliseconds * 1000) / 1000;
}

function rejectionText(
  { gang, namespace, reason, message, blocking, needsCorrection, counterfactuals }: Rejection,
  { width, explain }: PlanTextOptions,
): string {
  const more = explain
    ? [
        ...blocking.map(
          ({ level, domain, resource, needed, available }) =>
            `    ${level}${domain === undefined ? "" : ` ${domain}`}: ${resource}: ${quantity(resource, needed)} needed, ${quantity(resource, available)} there`,
        ),
        ...(needsCorrection ? ["    nothing is short: what is written has to be corrected"] : []),
        ...outlookSentences(counterfactuals).map((text) => wrap(text, width, "    ")),
      ]
    : [];
  return [`  ${namespace}/${gang}  ${reason}`, wrap(message, width, "    "), ...more].join("\n");
}

/** Without the resource's name. */
function quantity(resource: string, amount: number): string {
  return amountText(resource, amount).slice(resource.length + 1);
}

function summary({ placements, rejections, stats }: PlanOutput): string {
  const { nodes, devices: count, planMs, explored, budgetExceeded } = stats;
  const counts = `${placements.length} placed, ${rejections.length} not; ${plural(nodes, "node")}, ${plural(count, "device")}`;
  const budget = budgetExceeded ? ", the search's budget was reached" : "";
  return `${counts}; ${rounded(planMs)} ms, ${plural(explored, "step")} of search${budget}`;
}
