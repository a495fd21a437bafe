import type { KubernetesObject } from "../api/kubernetes.ts";
import { readDocuments, readFiles } from "./documents.ts";

/** An object read from a file; `source` says where it stands. */
export interface Manifest {
  object: KubernetesObject & { apiVersion: string; kind: string };
  source: string;
}

/**
 * The objects in files and in the YAML and JSON files of folders (not of folders below them), in order of name and
 * position. Throws an error that names file and line for what is no Kubernetes object.
 */
export async function readManifests(paths: readonly string[]): Promise<Manifest[]> {
  const { files, problems } = await readFiles(paths);
  const read = files.map(({ file, text }) => readDocuments(file, text));
  const [problem] = [...problems, ...read.flatMap((each) => each.problems)];
  if (problem !== undefined) {
    const place = problem.line === 0 ? problem.file : `${problem.file}:${problem.line}`;
    throw new Error(`${place}: ${problem.reason}`);
  }
  return read.flatMap(({ objects }) =>
    objects.map(({ object, file, line }) => ({ object, source: `${file}:${line()}` })),
  );
}
