import { execFile, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { access, mkdir, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type {
  AllocationResult,
  Device,
  DeviceClass,
  Node,
  ResourceClaim,
  ResourceSlice,
} from "../../../src/api/kubernetes.ts";
import { cacheFolder, goObjection } from "../../../tools/control-plane/build.ts";
import { withBuildLock } from "../../../tools/control-plane/build-lock.ts";

/** What is to be allocated on one node, in a cluster where `allocated` hold devices already. */
export interface AllocationQuestion {
  node: Node;
  slices: ResourceSlice[];
  classes: DeviceClass[];
  claims: ResourceClaim[];
  allocated: ResourceClaim[];
  timeoutMs: number;
}

interface SelectorQuestion {
  expression: string;
  driver: string;
  device: Device;
}

export interface Answer {
  /** Of an allocation: allocated, refused, error, timeout. Of a selector: true, false, refused, error. */
  verdict: string;
  message?: string;
  /** In the order of the claims. */
  allocations?: AllocationResult[];
  /** What the evaluation of a selector cost, in CEL's units. */
  cost?: number;
}

const folder = fileURLToPath(new URL(".", import.meta.url));
const goEnvironment = { CGO_ENABLED: "0", GOFLAGS: "-mod=readonly", GOTOOLCHAIN: "local", GOWORK: "off" };
const run = promisify(execFile);

/**
 * Path of the judge's program, built once into kllama's cache folder. Rejects with one sentence when there is no Go
 * that can build it.
 */
export async function buildJudge(): Promise<string> {
  const hash = createHash("sha256").update(process.platform + process.arch);
  for (const file of ["go.mod", "go.sum", "main.go"]) hash.update(await readFile(join(folder, file)));
  const entry = join(cacheFolder(process.env), "judge", hash.digest("hex").slice(0, 16));
  const program = join(entry, "judge");
  if (await exists(program)) return program;
  await requireGo();
  await withBuildLock(
    entry,
    () => {},
    async () => {
      if (await exists(program)) return;
      await mkdir(entry, { recursive: true });
      const args = ["build", "-trimpath", "-ldflags", "-s -w", "-o", `${program}.building`, "."];
      await run("go", args, { cwd: folder, env: { ...process.env, ...goEnvironment } });
      await rename(`${program}.building`, program);
    },
  );
  return program;
}

/** Upstream's answers, in the order of the questions. */
export function ask(program: string, questions: readonly (AllocationQuestion | SelectorQuestion)[]): Answer[] {
  const input = questions.map((question) => JSON.stringify(question)).join("\n");
  const { status, stdout, stderr } = spawnSync(program, { input, encoding: "utf8", maxBuffer: 2 ** 30 });
  if (status !== 0) throw new Error(`the judge ended with code ${status}: ${stderr}`);
  const answers = stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Answer);
  if (answers.length !== questions.length)
    throw new Error(`${answers.length} answers to ${questions.length} questions`);
  return answers;
}

async function requireGo(): Promise<void> {
  const version = await run("go", ["env", "GOVERSION"], { env: { ...process.env, GOTOOLCHAIN: "local" } }).then(
    ({ stdout }) => stdout.trim(),
    () => undefined,
  );
  const objection = goObjection(version);
  if (objection === undefined) return;
  throw new Error(`Kubernetes' own allocator cannot judge kllama's because ${objection}: install Go 1.26 or newer.`);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
