import { existsSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { gangSpec } from "../../../src/api/gang.ts";
import type { KubernetesObject } from "../../../src/api/kubernetes.ts";
import { driverName, gangLabel, injectLabel, podSetLabel } from "../../../src/api/names.ts";

const root = new URL("../../../", import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), "utf8");
const readme = read("README.md");

/** `file`: "name", "name" in the table of guarantees. */
const cited = [...readme.matchAll(/`(test\/[^`]+\.test\.ts)`: ("[^"]+"(?:, "[^"]+")*)/g)].flatMap(([, file, names]) =>
  [...(names ?? "").matchAll(/"([^"]+)"/g)].map(([, name]) => ({ file: file ?? "", name: name ?? "" })),
);

test("every guarantee names a test", () => {
  const section = /## What is guaranteed.*?\n(\|.*?)\n\n/s.exec(readme)?.[1] ?? "";
  const rows = section.split("\n").slice(2);
  expect(rows.length).toBeGreaterThan(5);
  for (const row of rows) expect(row).toMatch(/`test\/[^`]+\.test\.ts`: "/);
});

test.each(cited)('$file has "$name"', ({ file, name }) => {
  // Whole titles, quoted; one that is put together from a template ends with what is cited.
  expect([`${name}"`, `${name}\``].some((end) => read(file).includes(end))).toBe(true);
});

describe("links and paths", () => {
  const links = [...readme.matchAll(/\]\(([^):]+)\)/g)].map(([, path]) => path ?? "");
  test.each(links)("%s exists", (path) => {
    expect(existsSync(new URL(path, root))).toBe(true);
  });
});

test("the objects to paste fit together", () => {
  const text = /```yaml\n(.*?)```/s.exec(readme)?.[1] ?? "";
  const [namespace, template, gang, set] = parseAllDocuments(text).map(
    (document) => document.toJS() as KubernetesObject & { spec: Record<string, never> },
  );
  expect(namespace).toMatchObject({ kind: "Namespace", metadata: { labels: { [injectLabel]: "enabled" } } });
  for (const object of [template, gang, set]) expect(object?.metadata.namespace).toBe(namespace?.metadata.name);
  const spec = gangSpec.parse(gang?.spec);
  expect(gang?.spec).toEqual(expect.objectContaining({ podSets: spec.podSets }));
  expect(set).toMatchObject({
    spec: {
      replicas: spec.podSets[0]?.count,
      template: {
        metadata: { labels: { [gangLabel]: gang?.metadata.name, [podSetLabel]: spec.podSets[0]?.name } },
        spec: { resourceClaims: [{ name: "gpus", resourceClaimTemplateName: template?.metadata.name }] },
      },
    },
  });
  expect(JSON.stringify(template)).toContain(`"deviceClassName":"${driverName}"`);
});
