import type { Placement, PlanOutput } from "../../api/placement.ts";
import { simulatedNode } from "../../simulator/names.ts";
import type { ClusterState } from "../cluster-state.ts";
import type { Streams } from "../command.ts";
import { drawPlacements } from "../picture.ts";
import { placementsOf } from "../placements.ts";
import type { PlanInput } from "./input.ts";
import { planAll } from "./plan-all.ts";
import { assembleOrigins, fleetOrigin, ownDeviceClasses, problemLine, readOrigin } from "./read-input.ts";
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
  for (const problem of input.problems) streams.stderr.write(`${problemLine(problem)}\n`);
  streams.stdout.write(rendered(output, input.state, options));
  if (input.problems.length > 0) return 2;
  return output.rejections.length > 0 ? 3 : 0;
}

async function readInput({ paths, snapshot, fleet, stdin }: RunPlanOptions): Promise<PlanInput> {
  const origins = [
    ...(fleet === undefined ? [] : [await fleetOrigin(fleet)]),
    ...(snapshot === undefined ? [] : [await readOrigin([snapshot], false, stdin)]),
    ...(paths.length === 0 ? [] : [await readOrigin(paths, true, stdin)]),
  ];
  return assembleOrigins(origins, await ownDeviceClasses(), snapshot !== undefined);
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
