import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { stringify } from "yaml";
import { customResourceDefinition } from "../src/api/crd.ts";
import { customResources } from "../src/api/custom-resources.ts";
import { extenderEntries } from "../src/api/extender-configuration.ts";

const command = "npm run generate";
const root = join(import.meta.dirname, "..");

/** Folders in which every file is generated: a file there that nothing generates is drift. */
const generatedFolders = ["crds"];

/** @returns path below the repository root → content. */
function generatedFiles(): Map<string, string> {
  const files = new Map<string, string>();
  for (const resource of customResources) {
    files.set(`crds/${resource.group}_${resource.plural}.yaml`, toYaml(customResourceDefinition(resource)));
  }
  files.set("deploy/kube-scheduler/extenders.yaml", toYaml(schedulerConfiguration()));
  return files;
}

/** What an administrator adds to the KubeSchedulerConfiguration of the cluster. */
function schedulerConfiguration() {
  const folder = "/etc/kubernetes/kllama";
  return {
    apiVersion: "kubescheduler.config.k8s.io/v1",
    kind: "KubeSchedulerConfiguration",
    extenders: extenderEntries({
      url: "https://127.0.0.1:8443",
      tls: { caFile: `${folder}/ca.crt`, certFile: `${folder}/client.crt`, keyFile: `${folder}/client.key` },
    }),
  };
}

function toYaml(document: object): string {
  const body = stringify(document, { lineWidth: 0, aliasDuplicateObjects: false });
  return `# Generated from src/api by \`${command}\`; do not edit.\n${body}`;
}

function currentContent(path: string): string | undefined {
  try {
    return readFileSync(join(root, path), "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function strayFiles(files: ReadonlyMap<string, string>): string[] {
  return generatedFolders.flatMap((folder) => {
    mkdirSync(join(root, folder), { recursive: true });
    return readdirSync(join(root, folder))
      .map((name) => `${folder}/${name}`)
      .filter((path) => !files.has(path));
  });
}

const files = generatedFiles();
const changed = [...files].filter(([path, content]) => currentContent(path) !== content);
const stray = strayFiles(files);

if (process.argv.includes("--check")) {
  for (const [path] of changed) console.error(`${path}: not what src/api says; run \`${command}\` and commit it`);
  for (const path of stray) console.error(`${path}: nothing generates it; run \`${command}\`, which removes it`);
  process.exitCode = changed.length + stray.length === 0 ? 0 : 1;
} else {
  for (const [path, content] of changed) {
    mkdirSync(join(root, path, ".."), { recursive: true });
    writeFileSync(join(root, path), content);
    console.error(`wrote ${path}`);
  }
  for (const path of stray) {
    rmSync(join(root, path));
    console.error(`removed ${path}`);
  }
}
