import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  binaryNames,
  objectionTo,
  parseVersion,
  resolveBinaries,
  searchFolders,
} from "../../../tools/control-plane/binaries.ts";
import { buildFlags, cacheFolder, goObjection } from "../../../tools/control-plane/build.ts";

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "kllama-test-"));
});
afterEach(() => rm(root, { recursive: true, force: true }));

const printed = {
  etcd: "etcd Version: 3.6.8\nGit SHA: abc\nGo Version: go1.26.8",
  "kube-apiserver": "Kubernetes v1.36.3",
  "kube-controller-manager": "Kubernetes v1.36.3",
  "kube-scheduler": "Kubernetes v1.36.3",
  kubectl: "Client Version: v1.36.3\nKustomize Version: v5.8.1",
  kwok: "kwok version v0.8.0 go1.26.8 (linux/amd64)",
};

async function script(path: string, body: string): Promise<void> {
  await writeFile(path, `#!/bin/sh\n${body}\n`);
  await chmod(path, 0o755);
}

/** A folder of executables that print what the real ones print. */
async function folder(name: string, contents: Partial<Record<keyof typeof printed, string>>): Promise<string> {
  const path = join(root, name);
  await mkdir(path, { recursive: true });
  for (const [binary, output] of Object.entries(contents)) {
    await script(join(path, binary), `cat <<'END'\n${output}\nEND`.replace("cat", "/bin/cat"));
  }
  return path;
}

/** A `go` that "compiles" a script, and notes each build in `builds`. */
async function fakeGo(options: { version?: string; fails?: boolean } = {}): Promise<string> {
  const path = join(root, "go-bin");
  await mkdir(path, { recursive: true });
  const build = options.fails
    ? "echo 'verifying module: checksum mismatch' >&2; exit 1"
    : `while [ "$1" != -o ]; do shift; done; echo "$3 $GOFLAGS $CGO_ENABLED" >> ${root}/builds; echo '#!/bin/sh' > "$2"; /bin/chmod 755 "$2"`;
  await script(join(path, "go"), `if [ "$1" = env ]; then echo ${options.version ?? "go1.26.8"}; exit; fi\n${build}`);
  return path;
}

async function resolve(env: Record<string, string>) {
  const lines: string[] = [];
  const onProgress = (line: string) => void lines.push(line);
  const all = { KLLAMA_CACHE: join(root, "cache"), PATH: "", ...env };
  const resolved = await resolveBinaries({ version: "1.36.3", env: all, onProgress });
  return { ...resolved, lines };
}

const builds = async () => (await readFile(join(root, "builds"), "utf8").catch(() => "")).split("\n").filter(Boolean);

describe("where binaries come from", () => {
  test("KUBEBUILDER_ASSETS goes before PATH", async () => {
    const assets = await folder("assets", printed);
    const path = await folder("path", printed);
    const { paths, versions, lines } = await resolve({ KUBEBUILDER_ASSETS: assets, PATH: path });
    expect(Object.values(paths)).toEqual(binaryNames.map((name) => join(assets, name)));
    expect(versions).toMatchObject({ etcd: "3.6.8", kubectl: "1.36.3", kwok: "0.8.0" });
    expect(lines).toContain(`kwok 0.8.0: ${join(assets, "kwok")} (KUBEBUILDER_ASSETS)`);
  });

  test("another minor version is passed over, with the reason, in the folder and in PATH alike", async () => {
    const assets = await folder("assets", { ...printed, kubectl: "Client Version: v1.30.1" });
    const old = await folder("old", { kubectl: "Client Version: v1.20.2" });
    const good = await folder("good", { kubectl: printed.kubectl });
    const { paths, lines } = await resolve({ KUBEBUILDER_ASSETS: assets, PATH: `${old}:${good}` });
    expect(paths.kubectl).toBe(join(good, "kubectl"));
    expect(paths.etcd).toBe(join(assets, "etcd"));
    expect(lines).toContain(`kubectl: not ${assets}/kubectl (KUBEBUILDER_ASSETS), which is 1.30.1, not 1.36`);
    expect(lines).toContain(`kubectl: not ${old}/kubectl (PATH), which is 1.20.2, not 1.36`);
  });

  test("what is missing is built once, from then on the cache has it", async () => {
    const assets = await folder("assets", { etcd: printed.etcd, kwok: printed.kwok });
    const env = { KUBEBUILDER_ASSETS: assets, PATH: await fakeGo() };
    const first = await resolve(env);
    const packages = (await builds()).map((line) => line.split(" ")[0]);
    expect(packages).toEqual(
      ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"].map(
        (name) => `k8s.io/kubernetes/cmd/${name}`,
      ),
    );
    expect((await builds())[0]).toContain("-mod=readonly 0");
    expect(first.paths["kube-scheduler"]).toContain(join(root, "cache", "control-plane", "kubernetes-1.36-"));
    expect(first.versions["kube-scheduler"]).toBe("1.36.3");
    const second = await resolve({ ...env, PATH: "" });
    expect(second.paths).toEqual(first.paths);
    expect(await builds()).toHaveLength(4);
  });

  test("two that need the same build do it once", async () => {
    const env = { PATH: await fakeGo() };
    const [one, two] = await Promise.all([resolve(env), resolve(env)]);
    expect(one.paths).toEqual(two.paths);
    expect(await builds()).toHaveLength(binaryNames.length);
    expect([...one.lines, ...two.lines]).toContain("Another process is building the same: waiting for it.");
  });

  test("a failed build shows Go's words and leaves nothing behind", async () => {
    await expect(resolve({ PATH: await fakeGo({ fails: true }) })).rejects.toThrow(
      /kube-apiserver .*checksum mismatch/s,
    );
    const [entry] = await readdir(join(root, "cache", "control-plane"));
    expect(await readdir(join(root, "cache", "control-plane", entry!))).toEqual([]);
  });

  test.each([
    { what: "no Go", go: undefined, reason: "there is no Go" },
    { what: "an old Go", go: "go1.22.3", reason: "the Go in PATH is go1.22.3" },
  ])("without binaries and with $what: one error that says what to do", async ({ go, reason }) => {
    const PATH = go === undefined ? root : await fakeGo({ version: go });
    const failure = resolve({ PATH });
    await expect(failure).rejects.toThrow(reason);
    await expect(failure).rejects.toThrow(/install Go 1\.26 or newer[\s\S]*set KUBEBUILDER_ASSETS/);
    await expect(failure).rejects.toThrow(
      "etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl, kwok",
    );
  });
});

test.each([
  ["Kubernetes v1.36.3", "1.36.3"],
  ["Kubernetes v1.36.3-eks-1234", "1.36.3"],
  [printed.etcd, "3.6.8"],
  [printed.kubectl, "1.36.3"],
  [printed.kwok, "0.8.0"],
  ["Git SHA: Not provided", undefined],
  ["", undefined],
])("version in %j", (output, version) => {
  expect(parseVersion(output)).toBe(version);
});

test.each([
  ["etcd", "3.5.1", undefined],
  ["etcd", "3.4.23", "which is 3.4.23, not 3.5 or newer"],
  ["kwok", "0.7.0", "which is 0.7.0, not 0.8 or newer"],
  ["kubectl", "1.36.0", undefined],
  ["kubectl", "1.3.6", "which is 1.3.6, not 1.36"],
  ["kube-apiserver", undefined, "which does not tell its version"],
] as const)("%s %s: %s", (name, version, objection) => {
  expect(objectionTo(name, version, "1.36.3")).toBe(objection);
});

test.each([
  ["go1.26.0", true],
  ["go1.30", true],
  ["go2.0.1", true],
  ["go1.9.7", false],
  ["go1.25.9", false],
  ["devel", false],
])("Go %s builds: %s", (version, builds) => {
  expect(goObjection(version) === undefined).toBe(builds);
});

test("relative and empty folders of PATH are left out, others are asked once", () => {
  const folders = searchFolders({ PATH: "/a::./b:/a:/c" }).map(({ folder }) => folder);
  expect(folders).toEqual(["/a", "/c"]);
});

test("the cache follows KLLAMA_CACHE, XDG_CACHE_HOME, HOME", () => {
  expect(cacheFolder({ KLLAMA_CACHE: "/k", XDG_CACHE_HOME: "/x", HOME: "/h" })).toBe("/k");
  expect(cacheFolder({ XDG_CACHE_HOME: "/x", HOME: "/h" })).toBe("/x/kllama");
  expect(cacheFolder({ HOME: "/h" })).toBe("/h/.cache/kllama");
});

test("a built Kubernetes tells its version as an official one does", () => {
  const flags = buildFlags({ name: "kubernetes-1.37" }, "1.37.1").join(" ");
  expect(flags).toContain("-X k8s.io/component-base/version.gitVersion=v1.37.1");
  expect(flags).toContain("-X k8s.io/client-go/pkg/version.gitMinor=37");
});
