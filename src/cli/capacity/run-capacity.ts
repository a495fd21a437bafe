import type { CapacityOutput } from "../../api/capacity.ts";
import { capacityOf } from "../../extender/capacity.ts";
import { freeDevices } from "../../gang/free-devices.ts";
import { gangStates } from "../../gang/lifecycle/gang-states.ts";
import type { DocumentProblem } from "../../kube/documents.ts";
import { type ClusterState, modelOf } from "../cluster-state.ts";
import type { Streams } from "../command.ts";
import type { PlanInput } from "../plan/input.ts";
import { assembleOrigins, fleetOrigin, ownDeviceClasses, problemLine, readOrigin } from "../plan/read-input.ts";
import { questionsOf } from "./questions.ts";
import { capacityText } from "./text.ts";

export interface RunCapacityOptions {
  paths: readonly string[];
  snapshot: string | undefined;
  /** Fleet file of simulated machines. */
  fleet: string | undefined;
  /** Reads the live cluster: asked for when the input has none. */
  live: () => Promise<ClusterState>;
  output: "table" | "json";
  /** Copies after which no more are tried. */
  limit: number;
  managedDrivers: readonly string[];
  stdin: () => Promise<string>;
  streams: Streams;
}

/** Width where stdout is no terminal. */
const defaultWidth = 110;

/** @returns 0: all that was asked about fits at least once, 3: something does not, 2: some input could not be used. */
export async function runCapacity(options: RunCapacityOptions): Promise<number> {
  const { streams, managedDrivers, limit } = options;
  const { work, cluster, problems, notes } = await readWorld(options);
  const { questions, answers, notes: left } = questionsOf(work);
  const model = modelOf(cluster, gangStates(cluster), managedDrivers);
  const limits = { copies: limit, names: true, inTime: () => true };
  const output: CapacityOutput = {
    answers: [...answers, ...questions.map((each) => capacityOf(model, each, limits))],
    free: freeDevices(model.view),
  };
  for (const note of [...notes, ...left]) streams.stderr.write(`kllama capacity: ${note}\n`);
  for (const problem of problems) streams.stderr.write(`${problemLine(problem)}\n`);
  const width = Math.max(60, streams.stdout.columns || defaultWidth);
  streams.stdout.write(
    options.output === "json" ? `${JSON.stringify(output, undefined, 2)}\n` : capacityText(output, width),
  );
  if (problems.length > 0) return 2;
  return output.answers.some(({ copies }) => copies === 0) ? 3 : 0;
}

interface World {
  /** What is asked about. */
  readonly work: PlanInput;
  readonly cluster: ClusterState;
  readonly problems: readonly DocumentProblem[];
  readonly notes: readonly string[];
}

async function readWorld({ paths, snapshot, fleet, live, stdin }: RunCapacityOptions): Promise<World> {
  const files = await readOrigin(paths, true, stdin);
  const alone = fleet !== undefined || files.objects.some(({ object }) => object.kind === "Node");
  if (snapshot === undefined && alone) {
    const machines = fleet === undefined ? [] : [await fleetOrigin(fleet)];
    const work = assembleOrigins([...machines, files], await ownDeviceClasses(), false);
    return { work, cluster: work.state, problems: work.problems, notes: work.notes };
  }
  const work = assembleOrigins([files], [], false);
  if (snapshot === undefined) {
    return { work, cluster: withInput(await live(), work), problems: work.problems, notes: work.notes };
  }
  const more = fleet === undefined ? [] : [await fleetOrigin(fleet)];
  const dump = assembleOrigins([...more, await readOrigin([snapshot], false, stdin)], [], true);
  return {
    work,
    cluster: withInput(dump.state, work),
    problems: [...dump.problems, ...work.problems],
    notes: [...dump.notes, ...work.notes],
  };
}

/** The cluster with what the input adds to it; what waits there is asked about, and holds nothing. */
function withInput(cluster: ClusterState, { state }: PlanInput): ClusterState {
  const pods = state.pods.filter(({ nodeName }) => nodeName !== undefined);
  const claims = state.claims.filter(({ allocation }) => allocation !== undefined);
  return {
    ...cluster,
    pods: replaced(cluster.pods, pods),
    claims: replaced(cluster.claims, claims),
    nodes: [...cluster.nodes, ...state.nodes],
    slices: [...cluster.slices, ...state.slices],
    taintRules: [...cluster.taintRules, ...state.taintRules],
    deviceClasses: [...cluster.deviceClasses, ...state.deviceClasses],
    topologies: [...cluster.topologies, ...state.topologies],
  };
}

function replaced<T extends { namespace: string; name: string }>(before: readonly T[], by: readonly T[]): T[] {
  const keyOf = ({ namespace, name }: T): string => `${namespace}/${name}`;
  const names = new Set(by.map(keyOf));
  return [...before.filter((each) => !names.has(keyOf(each))), ...by];
}
