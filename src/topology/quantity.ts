import type { Resources } from "./records.ts";

/**
 * Kubernetes quantities (`apimachinery/pkg/api/resource`): a decimal number with a suffix. Kept exact as an integer
 * count of billionths, the finest unit that Kubernetes knows; finer digits are rounded away from zero, as there.
 */

export const nanoPerUnit = 1_000_000_000n;
const maxNano = (2n ** 63n - 1n) * nanoPerUnit;

/** Suffix → factor, as numerator and power of ten. */
const suffixes: ReadonlyMap<string, { factor: bigint; exponent: number }> = new Map([
  ["Ki", { factor: 2n ** 10n, exponent: 0 }],
  ["Mi", { factor: 2n ** 20n, exponent: 0 }],
  ["Gi", { factor: 2n ** 30n, exponent: 0 }],
  ["Ti", { factor: 2n ** 40n, exponent: 0 }],
  ["Pi", { factor: 2n ** 50n, exponent: 0 }],
  ["Ei", { factor: 2n ** 60n, exponent: 0 }],
  ["n", { factor: 1n, exponent: -9 }],
  ["u", { factor: 1n, exponent: -6 }],
  ["m", { factor: 1n, exponent: -3 }],
  ["", { factor: 1n, exponent: 0 }],
  ["k", { factor: 1n, exponent: 3 }],
  ["M", { factor: 1n, exponent: 6 }],
  ["G", { factor: 1n, exponent: 9 }],
  ["T", { factor: 1n, exponent: 12 }],
  ["P", { factor: 1n, exponent: 15 }],
  ["E", { factor: 1n, exponent: 18 }],
]);

const syntax = /^([+-]?)(\d*)(?:\.(\d*))?([KMGTPE]i|[numkMGTPE]|)(?:[eE]([+-]?\d+))?$/;
/** Whole numbers without sign and with a binary suffix or none: nearly every quantity in a cluster. */
const common = /^(\d{1,15})(Ki|Mi|Gi|Ti)?$/;
const commonFactor: Readonly<Record<string, number>> = { Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40 };

/** Billionths of a quantity, exact. Throws an Error that names the text. */
export function parseNano(text: string): bigint {
  const match = syntax.exec(text);
  if (match === null) throw malformed(text);
  const [, sign, whole = "", fraction = "", suffix = "", exponentText] = match;
  const unit = suffixes.get(suffix);
  if (unit === undefined || whole + fraction === "" || (suffix !== "" && exponentText !== undefined)) {
    throw malformed(text);
  }
  const exponent = unit.exponent + Number(exponentText ?? 0);
  if (text.length > 64 || Math.abs(exponent) > 64) throw malformed(text);
  const scale = exponent - fraction.length + 9;
  const digits = BigInt(whole + fraction) * unit.factor;
  const nano = scale >= 0 ? digits * 10n ** BigInt(scale) : divideUp(digits, 10n ** BigInt(-scale));
  const capped = nano > maxNano ? maxNano : nano;
  return sign === "-" ? -capped : capped;
}

/** A quantity of so many billionths, exact and in the suffix that makes it shortest. */
export function formatNano(nano: bigint): string {
  const texts = [...suffixes].flatMap(([suffix, { factor, exponent }]) => {
    const unit = factor * 10n ** BigInt(exponent + 9);
    return nano % unit === 0n ? [`${nano / unit}${suffix}`] : [];
  });
  if (nano === 0n) return "0";
  return texts.reduce((shortest, text) => (text.length < shortest.length ? text : shortest));
}

/** Integer value of a quantity in base units, rounded up; throws an Error that names the text. */
export function parseQuantity(text: string): number {
  const match = common.exec(text);
  if (match !== null) {
    const value = Number(match[1]) * (commonFactor[match[2] ?? ""] ?? 1);
    if (value <= Number.MAX_SAFE_INTEGER) return value;
  }
  return safeNumber(divideUp(parseNano(text), nanoPerUnit), text);
}

/** Thousandths of a quantity, rounded up: `1` → 1000, `100m` → 100; throws an Error that names the text. */
export function parseMilli(text: string): number {
  return safeNumber(divideUp(parseNano(text), 1_000_000n), text);
}

/** Sum by name. */
export function addResources(left: Resources, right: Resources): Resources {
  const sum: Record<string, number> = { ...left };
  for (const [name, amount] of Object.entries(right)) sum[name] = (sum[name] ?? 0) + amount;
  return sum;
}

/** Quotient rounded up towards positive infinity, as `Quantity.Value()` does. */
function divideUp(value: bigint, divisor: bigint): bigint {
  const quotient = value / divisor;
  return value > 0n && value % divisor !== 0n ? quotient + 1n : quotient;
}

function safeNumber(value: bigint, text: string): number {
  const number = Number(value);
  if (Number.isSafeInteger(number)) return number;
  throw new Error(`quantity ${JSON.stringify(text)} is beyond 2^53; write it in a coarser unit`);
}

function malformed(text: string): Error {
  const shown = JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
  return new Error(`${shown} is not a quantity; write a number with one suffix of Ki Mi Gi Ti Pi Ei n u m k M G T P E`);
}
