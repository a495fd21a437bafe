import { UnsignedInt } from "@marcbachmann/cel-js/evaluator";
import { formatNano } from "../../../topology/quantity.ts";
import { entriesOf, Quantity } from "./values.ts";

/**
 * `string.format(list)`: https://pkg.go.dev/github.com/google/cel-go/ext#Strings. Throws when a verb is unknown, does not
 * fit its value, or has none.
 */
export function formatText(text: string, values: readonly unknown[]): string {
  let next = 0;
  return text.replaceAll(/%(?:%|(\.\d+)?(.?))/gs, (found, precision: string | undefined, verb: string | undefined) => {
    if (found === "%%") return "%";
    if (next >= values.length) throw new Error(`index ${next} out of range`);
    return formatValue(verb ?? "", values[next++], precision === undefined ? 6 : Number(precision.slice(1)));
  });
}

function formatValue(verb: string, value: unknown, digits: number): string {
  switch (verb) {
    case "s":
      return plain(value);
    case "d":
      if (isWhole(value)) return String(value.valueOf());
      throw unfit(verb, "integers");
    case "f":
      return fixed(decimal(value, verb), digits);
    case "e":
      return scientific(decimal(value, verb), digits);
    case "b":
      if (typeof value === "boolean") return value ? "1" : "0";
      return inBase(value, 2, verb);
    case "o":
      return inBase(value, 8, verb);
    case "x":
      return hexadecimal(value, verb);
    case "X":
      return hexadecimal(value, verb).toUpperCase();
    default:
      throw new Error(`unrecognized formatting clause "${verb}"`);
  }
}

function isWhole(value: unknown): value is bigint | UnsignedInt {
  return typeof value === "bigint" || value instanceof UnsignedInt;
}

function decimal(value: unknown, verb: string): number {
  if (typeof value === "number") return value;
  throw unfit(verb, "doubles");
}

/** As Go prints for English readers: thousands apart. */
function fixed(value: number, digits: number): string {
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** As Go prints for English readers, with two digits at least: `1.5\u202f×\u202f10⁰³`. */
function scientific(value: number, digits: number): string {
  const [mantissa = "", exponent = ""] = value.toExponential(digits).split("e");
  const padded = exponent.replace(/^\+/, "").replace(/^(-?)(\d)$/, "$10$2");
  const raised = [...padded].map((digit) => (digit === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(digit)]));
  return `${mantissa}\u202f×\u202f10${raised.join("")}`;
}

function inBase(value: unknown, base: number, verb: string): string {
  if (isWhole(value)) return BigInt(String(value.valueOf())).toString(base);
  throw unfit(verb, "integers");
}

function hexadecimal(value: unknown, verb: string): string {
  if (isWhole(value)) return inBase(value, 16, verb);
  const bytes = typeof value === "string" ? new TextEncoder().encode(value) : value;
  if (bytes instanceof Uint8Array) return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  throw unfit(verb, "integers, byte buffers, and strings");
}

function plain(value: unknown): string {
  if (value === null) return "null";
  if (typeof value === "string" || typeof value === "boolean" || isWhole(value)) return String(value.valueOf());
  if (typeof value === "number")
    return Number.isFinite(value) ? String(value) : value > 0 ? "+Inf" : value < 0 ? "-Inf" : "NaN";
  if (value instanceof Uint8Array) return new TextDecoder().decode(value);
  if (Array.isArray(value)) return `[${value.map(plain).join(", ")}]`;
  if (value instanceof Quantity) return formatNano(value.nano);
  const entries = entriesOf(value);
  if (entries === undefined) throw unfit("s", "strings, bools, numbers, lists and maps");
  const pairs = entries.map(([key, each]) => `${plain(key)}:${plain(each)}`);
  return `{${pairs.sort().join(", ")}}`;
}

function unfit(verb: string, kinds: string): Error {
  return new Error(`error during formatting: %${verb} is for ${kinds} only`);
}
