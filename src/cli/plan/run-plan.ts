import { readFile } from "node:fs/promises";
import type { Placement, PlanOutput } from "../../api/placement.ts";
import { type DocumentProblem, readDocuments, readFiles, type SourceObject } from "../../kube/documents.ts";
import { readManifests } from "../../kube/manifests.ts";
import { parseFleet } from "../../simulator/fleet.ts";
import { simulatedNode } from "../../simulator/names.ts";
import { fleetNodes, nodeManifest, nodeSlices } from "../../simulator/objects.ts";
import type { ClusterState } from "../cluster-state.ts";
import { nodeInventories } from "../cluster-state.ts";
import type { Streams } from "../command.ts";
import { drawPlacements } from "../picture.ts";
import { placementsOf } from "../placements.ts";
import { assembleInput, type Origin, type PlanInput } from "./input.ts";
import { planAll } from "./plan-all.ts";
import { planText } from "./text.ts";

export interface RunPlanOptions {
  paths: readonly string[];
  snapshot: string | undefined;
  /** Fleet file of simulated machines. */
  fleet: string | undefined;
  output: "table" | "json" | "picture";
  explain: boolean;
  managedDrivers: readonly string[];
  color: boolean;
  /** kllama's own device classes. */
  deviceClassesFile: string;
  stdin: () => Promise<string>;
  streams: Streams;
}

/** Width where stdout is no terminal. */
const defaultWidth = 110;

/** @returns 0: all placed, 3: something is not, 2: some input could not be used. */
export async function runPlan(options: RunPlanOptions): Promise<number> {
  const { streams, managedDrivers } = options;
  const input = await readInput(options);
  const progress = createProgress(streams.stderr);
  const result = planAll(input.state, {
    managedDrivers,
    refused: input.refused,
    nowMs: () => performance.now(),
    onPlanned: progress.show,
  });
  progress.end();
  const output = withOwnNames(result, input);
  for (const note of input.notes) streams.stderr.write(`kllama plan: ${note}\n`);
  for (const problem of input.problems) streams.stderr.write(`${placed(problem)}${problem.reason}\n`);
  streams.stdout.write(rendered(output, input.state, options));
  if (input.problems.length > 0) return 2;
  return output.rejections.length > 0 ? 3 : 0;
}

function placed({ file, line }: DocumentProblem): string {
  return line === 0 ? `${file}: ` : `${file}:${line}: `;
}

async function readInput({ paths, snapshot, fleet, stdin, deviceClassesFile }: RunPlanOptions): Promise<PlanInput> {
  const origins: Origin[] = fleet === undefined ? [] : [{ planned: true, objects: await fleetObjects(fleet) }];
  const problems: DocumentProblem[] = [];
  for (const [names, planned] of [
    [snapshot === undefined ? [] : [snapshot], false],
    [paths, true],
  ] as const) {
    if (names.length === 0) continue;
    const read = await readFiles(names, stdin);
    const documents = read.files.map(({ file, text }) => readDocuments(file, text));
    problems.push(...read.problems, ...documents.flatMap((each) => each.problems));
    origins.push({ planned, objects: documents.flatMap(({ objects }) => objects) });
  }
  const deviceClasses = (await readManifests([deviceClassesFile])).map(({ object }) => object);
  const input = assembleInput(origins, deviceClasses);
  input.problems.unshift(...problems);
  const pools = poolProblems(input.state, origins);
  // On a live cluster a driver may be in the middle of publishing its slices.
  if (snapshot === undefined) input.problems.push(...pools);
  else input.notes.push(...pools.map(({ reason }) => reason));
  return input;
}

/** What the machines of a fleet file publish. */
async function fleetObjects(file: string): Promise<SourceObject[]> {
  const nodes = fleetNodes(parseFleet(await readFile(file, "utf8"), file));
  const objects = nodes.flatMap((node) => [
    nodeManifest(node),
    ...nodeSlices(node, { nodeUid: node.name, generation: 1 }),
  ]);
  return objects.map((object) => ({ object: object as SourceObject["object"], file, line: () => 1 }));
}

/** Pools of which nothing can be given, at the first of their slices. */
function poolProblems(state: ClusterState, origins: readonly Origin[]): DocumentProblem[] {
  const problems = new Map<string, DocumentProblem>();
  for (const inventory of nodeInventories(state).values()) {
    for (const { driver, pool, message } of inventory.problems) {
      const source = origins
        .flatMap(({ objects }) => objects)
        .find(({ object }) => {
          const { spec } = object as unknown as { spec?: { driver?: string; pool?: { name?: string } } };
          return object.kind === "ResourceSlice" && spec?.driver === driver && spec.pool?.name === pool;
        });
      const reason = `ResourceSlice ${source?.object.metadata.name ?? ""}: ${message}`;
      problems.set(message, { file: source?.file ?? "", line: source?.line(["spec", "pool"]) ?? 0, reason });
    }
  }
  return [...problems.values()];
}

/** A claim that exists in no cluster goes by its name in the pod. */
function withOwnNames(output: PlanOutput, { state, made }: PlanInput): PlanOutput {
  const names = new Set(
    state.claims.filter(({ uid }) => made.has(uid)).map(({ namespace, name }) => `${namespace}/${name}`),
  );
  const renamed = (placement: Placement): Placement => ({
    ...placement,
    pods: placement.pods.map((pod) => ({
      ...pod,
      claims: pod.claims.map((claim) =>
        names.has(`${placement.namespace}/${claim.claim}`) ? { ...claim, claim: claim.reference } : claim,
      ),
    })),
  });
  return { ...output, placements: output.placements.map(renamed) };
}

function rendered(output: PlanOutput, state: ClusterState, options: RunPlanOptions): string {
  if (options.output === "json") return `${JSON.stringify(output, undefined, 2)}\n`;
  const width = Math.max(60, options.streams.stdout.columns || defaultWidth);
  const text = planText(output, { width, explain: options.explain });
  if (options.output === "table") return text;
  const picture = drawPlacements(state, withRunning(output, state), {
    width,
    color: options.color,
    drivers: options.managedDrivers,
    simulatedLabel: simulatedNode,
  });
  return options.explain ? `${picture}\n${text}` : picture;
}

/** What runs already is drawn as well. */
function withRunning(output: PlanOutput, state: ClusterState): PlanOutput {
  const keys = new Set(
    [...output.placements, ...output.rejections].map(({ namespace, gang }) => `${namespace}/${gang}`),
  );
  const running = placementsOf(state).placements.filter(({ namespace, gang }) => !keys.has(`${namespace}/${gang}`));
  return { ...output, placements: [...output.placements, ...running] };
}

/** One line that is written over, on a terminal only, once the work takes long. */
function createProgress(stderr: Streams["stderr"]) {
  const startMs = performance.now();
  let shownMs = 0;
  return {
    show(done: number, all: number): void {
      const nowMs = performance.now();
      if (stderr.isTTY !== true || nowMs - startMs < 1_000 || nowMs - shownMs < 200) return;
      shownMs = nowMs;
      stderr.write(`\r${done} of ${all} planned`);
    },
    end(): void {
      if (shownMs > 0) stderr.write("\r\u001b[K");
    },
  };
}
