import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Document, isAlias, isNode, LineCounter, parseAllDocuments } from "yaml";
import type { KubernetesObject } from "../api/kubernetes.ts";

/** An object as it stands in a file; members of a List are objects of their own. */
export interface SourceObject {
  readonly object: KubernetesObject & { apiVersion: string; kind: string };
  readonly file: string;
  /** Line of a field, else of the nearest field around it that exists; without a path, of the object itself. */
  line(path?: readonly (string | number)[]): number;
}

/** What could not be read, and where. */
export interface DocumentProblem {
  readonly file: string;
  readonly line: number;
  readonly reason: string;
}

/** What files hold. What cannot be read is told in `problems`, and the rest is there all the same. */
export interface Documents {
  readonly objects: SourceObject[];
  readonly problems: DocumentProblem[];
}

/**
 * The YAML and JSON files that paths name: files, `-` for standard input, or folders (not the folders below them), whose
 * files come in order of their names. A path that cannot be read is told in `problems`.
 */
export async function readFiles(
  paths: readonly string[],
  stdin?: () => Promise<string>,
): Promise<{ files: { file: string; text: string }[]; problems: DocumentProblem[] }> {
  const files: { file: string; text: string }[] = [];
  const problems: DocumentProblem[] = [];
  for (const path of paths) {
    try {
      if (path === "-" && stdin !== undefined) files.push({ file: "stdin", text: await stdin() });
      else for (const file of await filesOf(path)) files.push({ file, text: await readFile(file, "utf8") });
    } catch (error) {
      problems.push({ file: path, line: 0, reason: messageOf(error) });
    }
  }
  return { files, problems };
}

async function filesOf(path: string): Promise<string[]> {
  if (!(await stat(path)).isDirectory()) return [path];
  const entries = await readdir(path, { withFileTypes: true });
  const names = entries.filter((entry) => !entry.isDirectory() && /\.(ya?ml|json)$/.test(entry.name));
  if (names.length === 0) throw new Error("the folder holds no .yaml, .yml or .json file");
  return names.map(({ name }) => join(path, name)).sort();
}

/** Reads one text: any number of YAML documents, or one JSON value; Lists are taken apart. */
export function readDocuments(file: string, text: string): Documents {
  const result: Documents = { objects: [], problems: [] };
  const json = parseJson(text);
  if (json !== undefined) {
    // Positions cost far more than the values, and are asked for only when something is wrong.
    let tree: { document: Document | undefined; lines: LineCounter } | undefined;
    take(json, file, result, (path) => {
      tree ??= firstDocument(text);
      return lineIn(tree.document, tree.lines, path);
    });
    return result;
  }
  const lines = new LineCounter();
  const documents = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false });
  for (const document of Array.isArray(documents) ? documents : []) {
    const [error] = document.errors;
    if (error !== undefined) {
      result.problems.push({ file, line: lines.linePos(error.pos[0]).line, reason: error.message });
      continue;
    }
    try {
      take(document.toJS(), file, result, (path) => lineIn(document, lines, path));
    } catch (thrown) {
      result.problems.push({ file, line: lineIn(document, lines, []), reason: messageOf(thrown) });
    }
  }
  return result;
}

/** Takes a value apart that was read already, such as the body of a request: it has no lines. */
export function readValue(origin: string, value: unknown): Documents {
  const result: Documents = { objects: [], problems: [] };
  take(value, origin, result, () => 0);
  return result;
}

function parseJson(text: string): unknown {
  if (!/^\s*[{[]/.test(text)) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    // Flow-style YAML, or broken JSON, which the other parser tells where.
    return undefined;
  }
}

function firstDocument(text: string): { document: Document | undefined; lines: LineCounter } {
  const lines = new LineCounter();
  const documents = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false });
  return { document: Array.isArray(documents) ? documents[0] : undefined, lines };
}

type Path = readonly (string | number)[];

function take(value: unknown, file: string, result: Documents, line: (path: Path) => number, at: Path = []): void {
  if (value === null || value === undefined) return;
  const fault = faultOf(value);
  if (fault !== undefined) {
    result.problems.push({ file, line: line(at), reason: fault });
    return;
  }
  const object = value as SourceObject["object"] & { items?: unknown };
  if (isList(object)) {
    for (const [i, item] of object.items.entries()) {
      take(withKind(item, object), file, result, line, [...at, "items", i]);
    }
    return;
  }
  if (typeof object.metadata?.name !== "string" || object.metadata.name === "") {
    result.problems.push({
      file,
      line: line([...at, "metadata"]),
      reason: `${object.kind}: metadata.name is missing or no text`,
    });
    return;
  }
  result.objects.push({ object, file, line: (path = []) => line([...at, ...path]) });
}

/** Members of a typed list, such as a PodList, need not repeat their kind. */
function withKind(item: unknown, list: { apiVersion: string; kind: string }): unknown {
  if (list.kind === "List" || typeof item !== "object" || item === null || Array.isArray(item)) return item;
  return { apiVersion: list.apiVersion, kind: list.kind.slice(0, -"List".length), ...item };
}

function isList(object: { kind: string; items?: unknown }): object is { kind: string; items: unknown[] } {
  return object.kind.endsWith("List") && Array.isArray(object.items);
}

function faultOf(value: unknown): string | undefined {
  if (typeof value !== "object" || Array.isArray(value)) {
    return `expected a Kubernetes object, not ${Array.isArray(value) ? "a list" : JSON.stringify(value).slice(0, 40)}`;
  }
  const { apiVersion, kind } = value as { apiVersion?: unknown; kind?: unknown };
  if (typeof apiVersion !== "string") return "apiVersion is missing; every object needs it";
  if (typeof kind !== "string") return "kind is missing; every object needs it";
  return undefined;
}

/** Line of the field, or of the innermost field around it that is there; documents with aliases lead to the alias. */
function lineIn(document: Document | undefined, lines: LineCounter, path: Path): number {
  for (let length = path.length; document !== undefined && length >= 0; length--) {
    const node = document.getIn(path.slice(0, length), true);
    if ((isNode(node) || isAlias(node)) && node.range) return lines.linePos(node.range[0]).line;
  }
  return 1;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
