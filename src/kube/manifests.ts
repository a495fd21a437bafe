import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import type { KubernetesObject } from "../api/kubernetes.ts";

/** An object read from a file; `source` says where it stands. */
export interface Manifest {
  object: KubernetesObject & { apiVersion: string; kind: string };
  source: string;
}

/**
 * The objects in YAML files and in the YAML files of folders (not of folders below them), in order of name and
 * position. Throws an error that names file and document for what is no Kubernetes object.
 */
export async function readManifests(paths: readonly string[]): Promise<Manifest[]> {
  const files = (await Promise.all(paths.map(yamlFiles))).flat();
  return (await Promise.all(files.map(manifestsOf))).flat();
}

async function yamlFiles(path: string): Promise<string[]> {
  if (!(await stat(path)).isDirectory()) return [path];
  const entries = await readdir(path, { withFileTypes: true });
  const names = entries.filter((entry) => entry.isFile() && /\.ya?ml$/.test(entry.name)).map((entry) => entry.name);
  return names.sort().map((name) => join(path, name));
}

async function manifestsOf(file: string): Promise<Manifest[]> {
  const documents = parseAllDocuments(await readFile(file, "utf8"));
  if (!Array.isArray(documents)) return [];
  return documents.flatMap((document, index) => {
    const source = `${file}, document ${index + 1}`;
    const [error] = document.errors;
    if (error !== undefined) throw new Error(`${source}: ${error.message}`);
    const object: unknown = document.toJS();
    return object === null ? [] : [{ object: checked(object, source), source }];
  });
}

function checked(value: unknown, source: string): Manifest["object"] {
  const object = value as Partial<Manifest["object"]>;
  for (const field of ["apiVersion", "kind"] as const) {
    if (typeof object[field] !== "string") throw new Error(`${source}: ${field} is missing; every object needs it`);
  }
  if (typeof object.metadata?.name !== "string") {
    throw new Error(`${source}: metadata.name is missing; server-side apply needs it`);
  }
  return object as Manifest["object"];
}
