import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { type DocumentProblem, readDocuments, readFiles, type SourceObject } from "../../kube/documents.ts";
import { readManifests } from "../../kube/manifests.ts";
import { parseFleet } from "../../simulator/fleet.ts";
import { fleetNodes, nodeManifest, nodeSlices, type SimulatedNode } from "../../simulator/objects.ts";
import { type ClusterState, nodeInventories } from "../cluster-state.ts";
import type { KindedObject } from "./expand.ts";
import { assembleInput, type Origin, type PlanInput } from "./input.ts";

const deviceClassesFile = fileURLToPath(new URL("../../../deploy/device-classes.yaml", import.meta.url));

/** What was read of files, and what of it could not be. */
export interface ReadOrigin extends Origin {
  readonly problems: readonly DocumentProblem[];
}

/** Objects of files and folders; `-` is stdin. `planned`: what controllers would make of them is made. */
export async function readOrigin(
  paths: readonly string[],
  planned: boolean,
  stdin: () => Promise<string>,
): Promise<ReadOrigin> {
  const read = await readFiles(paths, stdin);
  const documents = read.files.map(({ file, text }) => readDocuments(file, text));
  return {
    planned,
    objects: documents.flatMap(({ objects }) => objects),
    problems: [...read.problems, ...documents.flatMap((each) => each.problems)],
  };
}

/** What the machines of a fleet file publish; none where it cannot be read, which is told in `problems`. */
export async function fleetOrigin(file: string): Promise<ReadOrigin> {
  let nodes: SimulatedNode[];
  try {
    nodes = fleetNodes(parseFleet(await readFile(file, "utf8"), file));
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const reason = message.startsWith(`${file}: `) ? message.slice(file.length + 2) : message;
    return { planned: true, objects: [], problems: [{ file, line: 0, reason }] };
  }
  const objects = nodes.flatMap((node) => [
    nodeManifest(node),
    ...nodeSlices(node, { nodeUid: node.name, generation: 1 }),
  ]);
  const sources = objects.map((object) => ({ object: object as SourceObject["object"], file, line: () => 1 }));
  return { planned: true, objects: sources, problems: [] };
}

/** kllama's own device classes. */
export async function ownDeviceClasses(): Promise<KindedObject[]> {
  return (await readManifests([deviceClassesFile])).map(({ object }) => object);
}

/**
 * Brings origins together, with what is wrong with them. `live`: a driver may have been in the middle of publishing its
 * slices, so that pools of which nothing can be given are noted only.
 */
export function assembleOrigins(
  origins: readonly ReadOrigin[],
  deviceClasses: readonly KindedObject[],
  live: boolean,
): PlanInput {
  const input = assembleInput(origins, deviceClasses);
  input.problems.unshift(...origins.flatMap(({ problems }) => problems));
  const pools = poolProblems(input.state, origins);
  if (live) input.notes.push(...pools.map(({ reason }) => reason));
  else input.problems.push(...pools);
  return input;
}

/** `file:line: reason` */
export function problemLine({ file, line, reason }: DocumentProblem): string {
  return line === 0 ? `${file}: ${reason}` : `${file}:${line}: ${reason}`;
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
