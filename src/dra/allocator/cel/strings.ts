import type { Environment } from "@marcbachmann/cel-js";
import { RE2JS } from "re2js";
import { namespace } from "./lists.ts";

/**
 * What cel-go's string extension (version 2) and Kubernetes' regex library have and the CEL library lacks. Patterns are
 * RE2: linear in time, as upstream. Characters are code points.
 */
export function registerStrings(environment: Environment): void {
  const add = (signature: string, handler: (...values: never[]) => unknown) =>
    environment.registerFunction(signature, handler);
  add("string.charAt(int): string", (text: string, position: bigint) => {
    const characters = [...text];
    if (position < 0n || position > characters.length) throw new Error(`index out of range: ${position}`);
    return characters[Number(position)] ?? "";
  });
  add("string.replace(string, string): string", (text: string, old: string, by: string) =>
    text.replaceAll(old, () => by),
  );
  add("string.replace(string, string, int): string", replaceSome);
  add("matches(string, string): bool", matchesPattern);
  add("string.matchesRe2(string): bool", matchesPattern);
  add("string.find(string): string", (text: string, pattern: string) => findAll(text, pattern, 1n)[0] ?? "");
  add("string.findAll(string): list<string>", (text: string, pattern: string) => findAll(text, pattern, -1n));
  add("string.findAll(string, int): list<string>", findAll);
  namespace(environment, "strings", class Strings {}).registerFunction(
    "Strings.quote(string): string",
    (_: unknown, text: string) => quote(text),
  );
}

function matchesPattern(text: string, pattern: string): boolean {
  return RE2JS.compile(pattern).matcher(text).find();
}

/** The first `limit` matches; a negative limit: all. */
function findAll(text: string, pattern: string, limit: bigint): string[] {
  const matcher = RE2JS.compile(pattern).matcher(text);
  const found: string[] = [];
  while ((limit < 0n || found.length < limit) && matcher.find()) found.push(matcher.group() ?? "");
  return found;
}

function replaceSome(text: string, old: string, by: string, limit: bigint): string {
  let left = limit < 0n ? Number.POSITIVE_INFINITY : Number(limit);
  const pattern = new RegExp(old.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gu");
  return text.replaceAll(pattern, (found) => (left-- > 0 ? by : found));
}

const escapes: Readonly<Record<string, string>> = {
  "\x07": "\\a",
  "\b": "\\b",
  "\f": "\\f",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
  "\v": "\\v",
  "\\": "\\\\",
  '"': '\\"',
};

function quote(text: string): string {
  return `"${[...text].map((character) => escapes[character] ?? character).join("")}"`;
}
