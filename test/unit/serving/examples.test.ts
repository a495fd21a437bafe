import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { gangSpec } from "../../../src/api/gang.ts";
import type { KubernetesObject } from "../../../src/api/kubernetes.ts";
import { injectLabel } from "../../../src/api/names.ts";
import { placementGroupSpec } from "../../../src/api/placement-group.ts";
import { readCluster } from "../../../src/serving/validate.ts";

const folder = new URL("../../../examples/", import.meta.url);
const files = readdirSync(folder).filter((name) => name.endsWith(".yaml"));

type Document = KubernetesObject & { spec?: unknown };

const load = (file: string): { text: string; objects: Document[] } => {
  const text = readFileSync(new URL(file, folder), "utf8");
  return { text, objects: parseAllDocuments(text).map((document) => document.toJS({ maxAliasCount: 0 })) };
};

test("the four examples of the main job are there", () => {
  expect(files).toEqual(
    expect.arrayContaining(["llama-3-70b.yaml", "mig-slice.yaml", "prefill-decode.yaml", "statefulset-gang.yaml"]),
  );
});

describe.each(files)("%s", (file) => {
  const { text, objects } = load(file);

  test("begins with what it shows and how to apply it", () => {
    expect(text).toMatch(/^# .+\n#\n# {3}kubectl apply -f examples\//);
    expect(text).toContain(`kubectl apply -f examples/${file}`);
  });

  test("brings its namespace, in which pods wait for their plan, before everything in it", () => {
    expect(objects[0]).toMatchObject({ kind: "Namespace", metadata: { labels: { [injectLabel]: "enabled" } } });
    const namespaces = new Set(objects.slice(1).map((object) => object.metadata.namespace));
    expect([...namespaces]).toEqual([objects[0]?.metadata.name]);
  });

  test("its objects fit their schemas, without fields that the schemas do not know", () => {
    for (const object of objects) {
      if (object.kind === "LLMCluster") expect(readCluster(object)).toMatchObject({ cluster: { spec: object.spec } });
      if (object.kind === "Gang") expect(gangSpec.parse(object.spec)).toMatchObject(object.spec as object);
      if (object.kind === "PlacementGroup") {
        expect(placementGroupSpec.parse(object.spec)).toMatchObject(object.spec as object);
      }
    }
  });
});

test("prefill and decode: 2 × TP-8 as 2 × 4 and 4 × TP-4 as 2 × 2, all in the group, by its roles", () => {
  const { objects } = load("prefill-decode.yaml");
  const instances = objects.flatMap((object) => {
    const read = object.kind === "LLMCluster" ? readCluster(object) : { problems: [] };
    return "cluster" in read ? [read.cluster] : [];
  });
  const shapes = instances.map(
    ({ spec }) => `${spec.placement.placementGroup} ${spec.placement.role} ${spec.replicas}x${spec.gpusPerPod}`,
  );
  expect(shapes).toEqual([
    ...Array.from({ length: 2 }, () => "llama-pd prefill 2x4"),
    ...Array.from({ length: 4 }, () => "llama-pd decode 2x2"),
  ]);
  const group = placementGroupSpec.parse(objects.find((object) => object.kind === "PlacementGroup")?.spec);
  expect(group.members.map(({ role, minInstances }) => `${role} ${minInstances}`)).toEqual(["prefill 2", "decode 4"]);
});
