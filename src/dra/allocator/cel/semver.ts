/** Semantic version 2.0 as CEL's `semver` sees it: build metadata is read and ignored in comparisons. */
export class Semver {
  readonly numbers: readonly bigint[];
  readonly prerelease: readonly string[];

  constructor(numbers: readonly bigint[], prerelease: readonly string[]) {
    this.numbers = numbers;
    this.prerelease = prerelease;
  }
}

const number = "(0|[1-9]\\d*)";
const identifier = "(?:0|[1-9]\\d*|\\d*[A-Za-z-][0-9A-Za-z-]*)";
const syntax = new RegExp(
  `^${number}\\.${number}\\.${number}(?:-(${identifier}(?:\\.${identifier})*))?(?:\\+[0-9A-Za-z-]+(?:\\.[0-9A-Za-z-]+)*)?$`,
);

/** Undefined when the text is no semantic version. */
export function parseSemver(text: string): Semver | undefined {
  const match = syntax.exec(text);
  if (match === null || text.length > 256) return undefined;
  const numbers = [match[1], match[2], match[3]].map((part) => BigInt(part ?? "0"));
  if (numbers.some((each) => each >= 2n ** 64n)) return undefined;
  return new Semver(numbers, match[4]?.split(".") ?? []);
}

/** Kubernetes' lenient form: a leading `v`, leading zeros and a missing minor or patch number are allowed. */
export function parseLenientSemver(text: string): Semver | undefined {
  const parts = splitInThree(text.startsWith("v") ? text.slice(1) : text).map((part) =>
    part.length > 1 ? part.replace(/^0+(?=\d)/, "") : part,
  );
  if (parts.length < 3 && /[+-]/.test(parts.at(-1) ?? "")) return undefined;
  while (parts.length < 3) parts.push("0");
  return parseSemver(parts.join("."));
}

function splitInThree(text: string): string[] {
  const [major = "", minor, ...rest] = text.split(".");
  if (minor === undefined) return [major];
  return rest.length === 0 ? [major, minor] : [major, minor, rest.join(".")];
}

/** Negative, 0 or positive, by semver.org §11. */
export function compareSemver(left: Semver, right: Semver): number {
  for (const [position, a] of left.numbers.entries()) {
    const b = right.numbers[position] ?? 0n;
    if (a !== b) return a < b ? -1 : 1;
  }
  if (left.prerelease.length === 0 || right.prerelease.length === 0) {
    return Math.sign(right.prerelease.length - left.prerelease.length);
  }
  for (const [position, a] of left.prerelease.entries()) {
    const b = right.prerelease[position];
    if (b === undefined) return 1;
    if (a !== b) return compareIdentifiers(a, b);
  }
  return left.prerelease.length < right.prerelease.length ? -1 : 0;
}

/** Numbers compare as numbers and come before words. */
function compareIdentifiers(a: string, b: string): number {
  const numericA = /^\d+$/.test(a);
  const numericB = /^\d+$/.test(b);
  if (numericA && numericB) return BigInt(a) < BigInt(b) ? -1 : 1;
  if (numericA !== numericB) return numericA ? -1 : 1;
  return a < b ? -1 : 1;
}
