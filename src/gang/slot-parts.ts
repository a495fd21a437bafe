import type { Pin, Rule, Slot } from "./problem.ts";

/** Parts of a list of slots by how many they have of each kind; parts that differ only in which of equals they have are one. */
export interface SlotParts {
  /** Numbers of slots of each kind, all parts of that size, those with most of the first kinds first. */
  ofSize(size: number): Generator<readonly number[]>;
  /** Equal for parts of which one has a place exactly if the other has. */
  keyOf(numbers: readonly number[]): string;
  /** The first slots of each kind, in the order of the list. */
  slotsOf(numbers: readonly number[]): readonly Slot[];
  /** How many the list has of each kind. */
  readonly numbers: readonly number[];
}

/** In a path: the rule does not concern it. */
const none = "-";

/** Slots that nothing tells apart. */
interface Kind {
  readonly slots: Slot[];
  /** Its pod set and shape, then its set under each rule. */
  readonly path: readonly string[];
}

/** Kinds of a list of slots under rules, beside what runs already. */
export function partsOf(
  slots: readonly Slot[],
  rules: readonly Rule[],
  pins: readonly Pin[],
  shapeOf: (slot: Slot) => string,
): SlotParts {
  const byPath = new Map<string, Kind>();
  for (const [i, slot] of slots.entries()) {
    const unlike = slot.own !== undefined || slot.borrows !== undefined ? i : "";
    const name = `${slot.gang}/${slot.podSet} ${shapeOf(slot)} ${unlike}`;
    const path = [name, ...rules.map((rule) => rule.setOf(slot) ?? none)];
    const key = JSON.stringify(path);
    const kind = byPath.get(key) ?? { slots: [], path };
    kind.slots.push(slot);
    byPath.set(key, kind);
  }
  const kinds = [...byPath.values()];
  const labels = labelsOf(kinds, rules, pins);
  const position = new Map(slots.map((slot, i) => [slot, i]));
  return {
    numbers: kinds.map((kind) => kind.slots.length),
    ofSize: (size) => vectors(kinds, twinsOf(kinds, labels), size),
    keyOf: (numbers) =>
      keyOf(
        kinds,
        labels,
        numbers,
        [...kinds.keys()].filter((k) => numbers[k]! > 0),
        0,
      ),
    slotsOf: (numbers) =>
      kinds.flatMap((kind, k) => kind.slots.slice(0, numbers[k])).sort((a, b) => position.get(a)! - position.get(b)!),
  };
}

/** The paths without the names of sets that can trade places: those in which nothing runs, inside one other set. */
function labelsOf(kinds: readonly Kind[], rules: readonly Rule[], pins: readonly Pin[]): string[][] {
  const parents = new Map<string, Set<string>>();
  for (const { path } of kinds) {
    for (let depth = 1; depth < path.length; depth++) {
      const set = `${depth} ${path[depth]}`;
      parents.set(set, (parents.get(set) ?? new Set()).add(JSON.stringify(path.slice(0, depth))));
    }
  }
  const taken = new Set(rules.flatMap((rule, r) => pins.map((pin) => `${r + 1} ${rule.setOf(pin)}`)));
  return kinds.map(({ path }) =>
    path.map((name, depth) => {
      const set = `${depth} ${name}`;
      return depth > 0 && name !== none && !taken.has(set) && parents.get(set)!.size === 1 ? "" : name;
    }),
  );
}

/** Kinds that can trade places with the one before: a part need not have more of them than of that. */
function twinsOf(kinds: readonly Kind[], labels: readonly string[][]): boolean[] {
  return kinds.map(({ path, slots }, k) => {
    const before = kinds[k - 1];
    if (before === undefined || slots.length > before.slots.length) return false;
    const unlike = [...path.keys()].filter((depth) => path[depth] !== before.path[depth]);
    return unlike.length === 1 && labels[k]![unlike[0]!] === "" && labels[k - 1]![unlike[0]!] === "";
  });
}

function* vectors(kinds: readonly Kind[], twins: readonly boolean[], size: number): Generator<readonly number[]> {
  const behind = kinds.map((_, k) => kinds.slice(k + 1).reduce((sum, { slots }) => sum + slots.length, 0));
  const numbers: number[] = [];
  function* choose(k: number, left: number): Generator<readonly number[]> {
    if (k === kinds.length) {
      if (left === 0) yield [...numbers];
      return;
    }
    const most = Math.min(kinds[k]!.slots.length, left, twins[k] ? numbers[k - 1]! : left);
    for (let n = most; n >= Math.max(0, left - behind[k]!); n--) {
      numbers[k] = n;
      yield* choose(k + 1, left - n);
    }
  }
  yield* choose(0, size);
}

function keyOf(
  kinds: readonly Kind[],
  labels: readonly string[][],
  numbers: readonly number[],
  list: readonly number[],
  depth: number,
): string {
  if (list.length === 0 || depth === kinds[list[0]!]!.path.length) return `${list.map((k) => numbers[k]).join()}`;
  const sets = Map.groupBy(list, (k) => kinds[k]!.path[depth]!);
  return [...sets.values()]
    .map((members) => `${labels[members[0]!]![depth]}(${keyOf(kinds, labels, numbers, members, depth + 1)})`)
    .sort()
    .join();
}
