import { equalJson } from "./equal.ts";

/** What a record must tell to be compared with the API server's. */
interface Versioned {
  uid: string;
  namespace: string;
  name: string;
  resourceVersion?: string;
}

/**
 * One way in which what is known is not what the API server says. `missing`: it has the object and we do not; `leftover`:
 * we have it and it does not; `differs`: both have it, in other versions or with other content.
 */
export interface Drift<T> {
  problem: "missing" | "leftover" | "differs";
  /** `namespace/name`. */
  key: string;
  uid: string;
  known?: T;
  listed?: T;
  /** For people: which fields, with both values. */
  difference: string;
}

/** Compares a paged list with what is known; only refers to records, so that an audit costs little memory. */
export interface Comparison<T> {
  /** @param known UID → record, as of now: watches go on while pages come */
  page(listed: readonly T[], known: ReadonlyMap<string, T>): void;
  /** All pages are in. `unreadable`: keys of listed objects that could not be read. */
  finish(known: ReadonlyMap<string, T>, unreadable: ReadonlySet<string>): Drift<T>[];
}

/**
 * @param known UID → record, before the list is asked for: what comes later is not in it
 * @param derived what should follow from a record and does not, as a text; for sums that are kept beside the records
 */
export function beginComparison<T extends Versioned>(
  known: ReadonlyMap<string, T>,
  derived: (record: T) => string | undefined = () => undefined,
): Comparison<T> {
  const unseen = new Set(known.keys());
  const found: Drift<T>[] = [];
  return {
    page(listed, now) {
      for (const record of listed) {
        unseen.delete(record.uid);
        const drift = compare(now.get(record.uid), record, derived);
        if (drift !== undefined) found.push(drift);
      }
    },
    finish(now, unreadable) {
      for (const uid of unseen) {
        const record = now.get(uid);
        if (record === undefined || unreadable.has(keyOf(record))) continue;
        const difference = "the API server does not have it any more";
        found.push({ problem: "leftover", key: keyOf(record), uid, known: record, difference });
      }
      return found;
    },
  };
}

function compare<T extends Versioned>(
  known: T | undefined,
  listed: T,
  derived: (record: T) => string | undefined,
): Drift<T> | undefined {
  const key = keyOf(listed);
  const { uid } = listed;
  if (known === undefined) {
    return { problem: "missing", key, uid, listed, difference: "the API server has it, here it is not known" };
  }
  const difference = differenceOf(known, listed) ?? derived(known);
  return difference === undefined ? undefined : { problem: "differs", key, uid, known, listed, difference };
}

/**
 * Of what two comparisons found, some time apart, what no watch has explained in between: an object that is still
 * missing or left over, or is still known in the version that was wrong the first time.
 */
export function confirmedDrift<T extends Versioned>(
  first: readonly Drift<T>[],
  second: readonly Drift<T>[],
): Drift<T>[] {
  const before = new Map(first.map((drift) => [drift.uid, drift]));
  return second.filter((drift) => {
    const earlier = before.get(drift.uid);
    return earlier?.problem === drift.problem && earlier.known?.resourceVersion === drift.known?.resourceVersion;
  });
}

function differenceOf(known: object, listed: object): string | undefined {
  if (equalJson(known, listed)) return undefined;
  const [ours, theirs] = [known, listed] as Record<string, unknown>[];
  const fields = [...new Set([...Object.keys(ours!), ...Object.keys(theirs!)])].sort();
  return fields
    .filter((field) => !equalJson(ours![field], theirs![field]))
    .map((field) => `${field} is ${shortly(theirs![field])}, known as ${shortly(ours![field])}`)
    .join("; ");
}

const longestValue = 120;

function shortly(value: unknown): string {
  const text = JSON.stringify(value) ?? "absent";
  return text.length <= longestValue ? text : `${text.slice(0, longestValue)}…`;
}

function keyOf({ namespace, name }: Versioned): string {
  return `${namespace}/${name}`;
}
