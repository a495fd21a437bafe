import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { access, mkdir, readdir, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { cacheFolder, goObjection } from "../../tools/control-plane/build.ts";
import { withBuildLock } from "../../tools/control-plane/build-lock.ts";

const goEnvironment = { CGO_ENABLED: "0", GOFLAGS: "-mod=readonly", GOTOOLCHAIN: "local", GOWORK: "off" };
const run = promisify(execFile);

/**
 * Path of the program whose Go module is `folder`, built once into kllama's cache folder; `module` names another go.mod (and
 * go.sum) for the same source: other versions. Rejects with one sentence, which begins with `refusal`, when there is no Go that
 * can build it.
 */
export async function buildGoProgram(folder: string, refusal: string, module = "go"): Promise<string> {
  const hash = createHash("sha256").update(process.platform + process.arch);
  const sources = (await readdir(folder)).filter((file) => file.endsWith(".go")).sort();
  for (const file of [`${module}.mod`, `${module}.sum`, ...sources]) hash.update(await readFile(join(folder, file)));
  const entry = join(cacheFolder(process.env), "judge", hash.digest("hex").slice(0, 16));
  const program = join(entry, "judge");
  if (await exists(program)) return program;
  await requireGo(refusal);
  await withBuildLock(
    entry,
    () => {},
    async () => {
      if (await exists(program)) return;
      await mkdir(entry, { recursive: true });
      const args = [
        "build",
        `-modfile=${module}.mod`,
        "-trimpath",
        "-ldflags",
        "-s -w",
        "-o",
        `${program}.building`,
        ".",
      ];
      await run("go", args, { cwd: folder, env: { ...process.env, ...goEnvironment }, maxBuffer: 2 ** 26 });
      await rename(`${program}.building`, program);
    },
  );
  return program;
}

async function requireGo(refusal: string): Promise<void> {
  const version = await run("go", ["env", "GOVERSION"], { env: { ...process.env, GOTOOLCHAIN: "local" } }).then(
    ({ stdout }) => stdout.trim(),
    () => undefined,
  );
  const objection = goObjection(version);
  if (objection === undefined) return;
  throw new Error(`${refusal} because ${objection}: install Go 1.26 or newer.`);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
