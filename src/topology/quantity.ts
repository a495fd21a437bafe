import type { Resources } from "./records.ts";

/** Integer value of a Kubernetes quantity in base units, rounded up; throws an Error that names the text. */
export function parseQuantity(text: string): number {
  throw new Error(`not implemented: ${text}`);
}

/** The same in thousandths: `1` → 1000, `100m` → 100. */
export function parseMilli(text: string): number {
  throw new Error(`not implemented: ${text}`);
}

/** Sum by name. */
export function addResources(left: Resources, right: Resources): Resources {
  throw new Error(`not implemented: ${left} ${right}`);
}
