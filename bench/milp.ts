import highs, { type LegacyHighs } from "highs";
import {
  type Assignment,
  type Bundle,
  bundlesOf,
  domainOf,
  type Instance,
  type Level,
  levels,
  pairsOf,
  ringMs,
  rulesOf,
  streamMs,
} from "./mid-size.ts";

/** What an exact solver says; `unknown`: its time ended before it knew. */
type Verdict =
  | { readonly kind: "found"; readonly assignment: Assignment }
  | { readonly kind: "none" }
  | { readonly kind: "unknown" };

export interface ExactSolver {
  /** Is there any assignment that fits, keeps all rules and costs at most so many milliseconds? */
  find(instance: Instance, atMostMs: number): Verdict;
}

/** The package's types are those of its CommonJS form, whose default export is one level further in. */
const loadHighs = highs as unknown as () => Promise<LegacyHighs>;

/** HiGHS, compiled to WebAssembly. */
export async function createExactSolver(timeLimitSeconds: number): Promise<ExactSolver> {
  const solver = await loadHighs();
  return {
    find(instance, atMostMs) {
      const program = programOf(instance, atMostMs);
      const { Status, Columns } = solver.solve(program, { time_limit: timeLimitSeconds, output_flag: false });
      if (Status === "Infeasible") return { kind: "none" };
      if (Status !== "Optimal") return { kind: "unknown" };
      const assignment = bundlesOf(instance).map((_, b) => {
        const pods = instance.machines.flatMap((_machine, n): [number, number][] => {
          const column = Columns[`x_${b}_${n}`];
          const count = column && "Primal" in column ? Math.round(column.Primal) : 0;
          return count > 0 ? [[n, count]] : [];
        });
        return new Map(pods);
      });
      return { kind: "found", assignment };
    },
  };
}

/** Rows and columns of a program that is being written. */
interface Program {
  readonly rows: string[];
  readonly integers: Set<string>;
  readonly binaries: string[];
}

/**
 * The instance as a mixed-integer program in CPLEX's LP format, without an objective.
 * `x_b_n`: pods of bundle b on machine n. `u_s_d`: all bundles of set s are in domain d. `v_p_d`: both gangs of pair p
 * are. Who is in a domain together saves what its level is cheaper than the next broader one.
 */
function programOf(instance: Instance, atMostMs: number): string {
  const bundles = bundlesOf(instance);
  const program: Program = { rows: [], integers: new Set(), binaries: [] };
  addCapacity(program, instance, bundles);
  addOrder(program, instance, bundles);
  const savings = addSavings(program, instance, bundles);
  for (const { level, members } of rulesOf(instance, bundles)) {
    const inside = addSet(program, instance, bundles, members);
    program.rows.push(`${[...inside(level).map(({ name }) => name), "zero"].join(" + ")} = 1`);
  }
  if (Number.isFinite(atMostMs)) {
    const saved = savings.terms.map(([saving, name]) => `${saving.toFixed(6)} ${name}`);
    program.rows.push(`${[...saved, "zero"].join(" + ")} >= ${(savings.mostMs - atMostMs).toFixed(6)}`);
  }
  return [
    "Minimize",
    " nothing: zero",
    "Subject To",
    ...program.rows.map((row, i) => ` r${i}: ${row}`),
    "Bounds",
    " zero = 0",
    "General",
    ...[...program.integers].map((name) => ` ${name}`),
    "Binary",
    ...program.binaries.map((name) => ` ${name}`),
    "End",
  ].join("\n");
}

/** Every pod has a machine, and no machine is given more than it has. */
function addCapacity({ rows, integers }: Program, instance: Instance, bundles: readonly Bundle[]): void {
  const { machines } = instance;
  for (const [b, { count }] of bundles.entries()) {
    const fitting = [...machines.keys()].filter((n) => roomOn(instance, bundles[b]!, n) > 0);
    for (const n of fitting) {
      integers.add(`x_${b}_${n}`);
      rows.push(`x_${b}_${n} <= ${roomOn(instance, bundles[b]!, n)}`);
    }
    rows.push(`${[...fitting.map((n) => `x_${b}_${n}`), "zero"].join(" + ")} = ${count}`);
  }
  for (const [n, machine] of machines.entries()) {
    for (const what of ["gpus", "cores"] as const) {
      const terms = bundles.flatMap(({ pods }, b) =>
        integers.has(`x_${b}_${n}`) && pods[what] > 0 ? [`${pods[what]} x_${b}_${n}`] : [],
      );
      if (terms.length > 0) rows.push(`${terms.join(" + ")} <= ${machine[what]}`);
    }
  }
}

/** Equal gangs, and equal slices of one gang, may be exchanged: only one order of them has to be looked at. */
function addOrder({ rows, integers }: Program, { machines, gangs }: Instance, bundles: readonly Bundle[]): void {
  const kindOf = ({ gang, set }: Bundle): string => {
    const { role, within, sets } = gangs[gang]!;
    return sets.length > 1 ? `${gang} ${set}` : JSON.stringify([role, within, sets]);
  };
  for (const alike of Map.groupBy(bundles.keys(), (b) => kindOf(bundles[b]!)).values()) {
    for (const [i, b] of alike.entries()) {
      const next = alike[i + 1];
      // Slices of different gangs cannot be exchanged one by one.
      if (next === undefined || (bundles[b]!.pods.slice && bundles[b]!.gang !== bundles[next]!.gang)) continue;
      const terms = [...machines.keys()].flatMap((n) => [
        ...(n > 0 && integers.has(`x_${next}_${n}`) ? [`+ ${n} x_${next}_${n}`] : []),
        ...(n > 0 && integers.has(`x_${b}_${n}`) ? [`- ${n} x_${b}_${n}`] : []),
      ]);
      rows.push(`zero ${terms.join(" ")} >= 0`);
    }
  }
}

interface Savings {
  /** What everything costs over the dearest link. */
  readonly mostMs: number;
  readonly terms: readonly (readonly [milliseconds: number, name: string])[];
}

/** What rings and streams save in each domain, where the instance prices them. */
function addSavings(program: Program, instance: Instance, bundles: readonly Bundle[]): Savings {
  if (instance.group === undefined) return { mostMs: 0, terms: [] };
  const { bytes } = instance.group;
  const terms: [number, string][] = [];
  let mostMs = 0;
  const save = (
    columns: (level: Level) => readonly { readonly name: string }[],
    milliseconds: (level: Level | "beyond") => number,
  ): void => {
    mostMs += milliseconds("beyond");
    for (const [i, level] of levels.entries()) {
      const saving = milliseconds(levels[i - 1] ?? "beyond") - milliseconds(level);
      for (const { name } of columns(level)) terms.push([saving, name]);
    }
  };
  for (const [b, bundle] of bundles.entries()) {
    if (ringMs(bundle, "beyond") === 0) continue;
    save(addSet(program, instance, bundles, [b]), (level) => ringMs(bundle, level));
  }
  const ofGang = instance.gangs.map((_, gang) => {
    const members = [...bundles.keys()].filter((b) => bundles[b]!.gang === gang);
    return addSet(program, instance, bundles, members);
  });
  const together: PairIn[] = [];
  addKnapsacks(program, instance, ofGang);
  for (const [p, [from, to]] of pairsOf(instance).entries()) {
    const both = (level: Level) =>
      ofGang[from]!(level).flatMap(({ domain, name }) => {
        const other = ofGang[to]!(level).find((each) => each.domain === domain);
        if (other === undefined) return [];
        const pair = `v_${p}_${level}_${name.split("_").at(-1)}`;
        program.binaries.push(pair);
        program.rows.push(`${pair} - ${name} <= 0`, `${pair} - ${other.name} <= 0`);
        together.push({ level, domain, from, to, pair, of: [name, other.name] });
        return [{ name: pair }];
      });
    save(both, (level) => streamMs(bytes, level));
  }
  addPartnerCuts(program, instance, together);
  return { mostMs, terms };
}

/** Pods of so many GPUs or more that a domain has room for, counted in units of that size; and what gangs need of them. */
function roomsOf({ machines, gangs }: Instance, level: Level, domain: string) {
  const inside = machines.filter((machine) => domainOf(machine, level) === domain);
  const sizes = new Set(gangs.flatMap(({ sets }) => sets.map(({ gpus }) => gpus)).filter((gpus) => gpus > 0));
  return [1, ...sizes].map((size) => ({
    room: inside.reduce((sum, { gpus }) => sum + Math.floor(gpus / size), 0),
    needs: gangs.map(({ sets }) => sets.reduce((sum, { count, gpus }) => sum + count * Math.floor(gpus / size), 0)),
  }));
}

/**
 * Cuts: gangs that are in a domain as a whole have to fit into it together. They follow from the rest, but not from its
 * relaxation, and are what makes it decidable in seconds.
 */
function addKnapsacks(
  { rows }: Program,
  instance: Instance,
  ofGang: readonly ((level: Level) => readonly { domain: string; name: string }[])[],
): void {
  for (const level of levels) {
    for (const domain of new Set(instance.machines.map((machine) => domainOf(machine, level)))) {
      const columns = ofGang.map((of) => of(level).find((each) => each.domain === domain)?.name);
      for (const { room, needs } of roomsOf(instance, level, domain)) {
        const terms = columns.flatMap((name, gang) => (name && needs[gang]! > 0 ? [`${needs[gang]} ${name}`] : []));
        if (terms.length > 1) rows.push(`${terms.join(" + ")} <= ${room}`);
      }
    }
  }
}

/** Both gangs of a pair in one domain: the column that says so, and those of the gangs. */
interface PairIn {
  readonly level: Level;
  readonly domain: string;
  readonly from: number;
  readonly to: number;
  readonly pair: string;
  readonly of: readonly [from: string, to: string];
}

/** Cuts: a gang has no more partners in its domain than fit beside it. Gangs of one role are alike here. */
function addPartnerCuts({ rows }: Program, instance: Instance, together: readonly PairIn[]): void {
  for (const pairs of Map.groupBy(together, ({ level, domain }) => `${level} ${domain}`).values()) {
    const { level, domain, from, to } = pairs[0]!;
    const rooms = roomsOf(instance, level, domain);
    const hold = (a: number, b: number) => rooms.every(({ room, needs }) => a * needs[from]! + b * needs[to]! <= room);
    const most = (fits: (n: number) => boolean) => {
      let n = 0;
      while (n < pairs.length && fits(n + 1)) n++;
      return n;
    };
    for (const end of [0, 1] as const) {
      const partners = most((n) => (end === 0 ? hold(1, n) : hold(n, 1)));
      for (const [name, own] of Map.groupBy(pairs, ({ of }) => of[end])) {
        if (partners < own.length) rows.push(`${own.map(({ pair }) => pair).join(" + ")} - ${partners} ${name} <= 0`);
      }
    }
    let product = 0;
    for (let a = 1; a <= pairs.length && hold(a, 1); a++) product = Math.max(product, a * most((n) => hold(a, n)));
    if (product < pairs.length) rows.push(`${pairs.map(({ pair }) => pair).join(" + ")} <= ${product}`);
  }
}

/** Per level, the domains that the bundles may all be in: one of them at most holds. */
function addSet(
  { rows, integers, binaries }: Program,
  instance: Instance,
  bundles: readonly Bundle[],
  members: readonly number[],
) {
  const { machines } = instance;
  const s = binaries.length;
  const byLevel = new Map<Level, { domain: string; name: string }[]>();
  for (const level of levels) {
    const domains = Map.groupBy(machines.keys(), (n) => domainOf(machines[n]!, level));
    const columns = [...domains]
      .filter(([, inside]) =>
        couldHold(
          instance,
          members.map((b) => bundles[b]!),
          inside,
        ),
      )
      .map(([domain], i) => ({ domain, name: `u_${s}_${level}_${i}` }));
    byLevel.set(level, columns);
    binaries.push(...columns.map(({ name }) => name));
    if (columns.length > 1) rows.push(`${columns.map(({ name }) => name).join(" + ")} <= 1`);
    for (const b of members) {
      for (const n of machines.keys()) {
        if (!integers.has(`x_${b}_${n}`)) continue;
        const elsewhere = columns.filter(({ domain }) => domain !== domainOf(machines[n]!, level));
        const room = roomOn(instance, bundles[b]!, n);
        if (elsewhere.length === 0) continue;
        rows.push(`x_${b}_${n}${elsewhere.map(({ name }) => ` + ${room} ${name}`).join("")} <= ${room}`);
      }
    }
  }
  // Who is together at a level is together at all broader ones.
  for (const [i, level] of levels.entries()) {
    const broader = levels[i - 1];
    if (broader === undefined) continue;
    for (const { domain, name } of byLevel.get(level)!) {
      const machine = machines.find((each) => domainOf(each, level) === domain)!;
      const around = byLevel.get(broader)!.find((each) => each.domain === domainOf(machine, broader));
      rows.push(`${name} - ${around!.name} <= 0`);
    }
  }
  return (level: Level) => byLevel.get(level)!;
}

/** Pods of the bundle that the machine has room for when it has nothing else. */
function roomOn({ machines }: Instance, { pods, count }: Bundle, n: number): number {
  const room = (has: number, each: number) => (each === 0 ? Number.POSITIVE_INFINITY : Math.floor(has / each));
  return Math.min(count, room(machines[n]!.gpus, pods.gpus), room(machines[n]!.cores, pods.cores));
}

/** A bound: each bundle alone has room inside, and there are GPUs for all. */
function couldHold(instance: Instance, bundles: readonly Bundle[], inside: readonly number[]): boolean {
  const sum = (of: (n: number) => number) => inside.reduce((total, n) => total + of(n), 0);
  const wanted = bundles.reduce((total, { count, pods }) => total + count * pods.gpus, 0);
  if (wanted > sum((n) => instance.machines[n]!.gpus)) return false;
  return bundles.every((bundle) => sum((n) => roomOn(instance, bundle, n)) >= bundle.count);
}
