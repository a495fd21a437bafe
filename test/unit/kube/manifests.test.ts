import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { readManifests } from "../../../src/kube/manifests.ts";

let folder: string;
let count = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "kllama-manifests-"));
});

afterAll(() => rm(folder, { recursive: true }));

async function files(contents: Record<string, string>): Promise<string> {
  const inside = join(folder, String(count++));
  await mkdir(join(inside, "below"), { recursive: true });
  for (const [name, content] of Object.entries(contents)) await writeFile(join(inside, name), content);
  return inside;
}

const object = (name: string) => `apiVersion: v1\nkind: Namespace\nmetadata: {name: ${name}}\n`;

test("reads folders by name, files as given, empty documents not at all", async () => {
  const path = await files({
    "b.yml": object("b"),
    "a.yaml": `# only a comment\n---\n${object("a-1")}---\n${object("a-2")}---\n`,
    "notes.md": "no YAML",
    "below/c.yaml": object("c"),
    "empty.yaml": "",
  });
  const names = async (paths: string[]) => (await readManifests(paths)).map((entry) => entry.object.metadata.name);
  expect(await names([path])).toEqual(["a-1", "a-2", "b"]);
  expect(await names([join(path, "below", "c.yaml"), join(path, "a.yaml")])).toEqual(["c", "a-1", "a-2"]);
});

test.each([
  ["kind", "apiVersion: v1\nmetadata: {name: a}", "x.yaml:1: kind is missing"],
  ["apiVersion", "kind: A\nmetadata: {name: a}", "x.yaml:1: apiVersion is missing"],
  ["metadata.name", `${object("a")}---\napiVersion: v1\nkind: A\nmetadata: {}`, "x.yaml:7: A: metadata.name"],
  ["syntax", "a: [", "x.yaml:1: "],
  ["an object", "just text", "x.yaml:1: expected a Kubernetes object"],
])("%s missing or wrong: says where", async (_what, content, message) => {
  const path = await files({ "x.yaml": content });
  await expect(readManifests([path])).rejects.toThrow(message);
});
