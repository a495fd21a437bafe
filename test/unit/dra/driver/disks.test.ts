import { execFile, spawnSync } from "node:child_process";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { specFile } from "../../../../src/dra/driver/cdi.ts";
import { claimObject, type DriverScene, openScene } from "../../../support/driver.ts";
import { awaken } from "../../../support/driver-life.ts";
import { seed } from "../../../support/seed.ts";

/** Disks that refuse: each claim is told what, why and what to do; nothing is left over; all is well once the disk is. */

let driver: DriverScene;
let file: string;

beforeEach(async () => {
  driver = await openScene("dgx-h100");
  const claim = claimObject("c", ["gpus gpu-0"]);
  driver.claims.set("c", claim);
  file = join(driver.cdiFolder, specFile(claim.metadata.uid!));
});

afterEach(() => driver.remove());

/** Prepares `c`, which fails as told and leaves nothing; and again once `heal` has been called, which succeeds. */
async function refused(why: RegExp, heal: () => Promise<unknown>): Promise<void> {
  expect((await driver.prepare("c"))["c"]).toMatch(why);
  expect(driver.store.claims.size).toBe(0);
  await heal();
  expect((await driver.prepare("c"))["c"]).toHaveLength(1);
  expect(await driver.specs()).toEqual([specFile(driver.claims.get("c")!.metadata.uid!)]);
}

describe("the CDI folder", () => {
  test("missing: made anew, also for claims that were prepared before", async () => {
    await driver.prepare("c");
    await rm(driver.cdiFolder, { recursive: true });
    await awaken(driver);
    expect(await driver.specs()).toHaveLength(1);
  });

  test("full (the kernel's /dev/full): the claim says so", async () => {
    await mkdir(driver.cdiFolder);
    await symlink("/dev/full", `${file}.tmp`);
    // What was half written is removed, and the link with it.
    await refused(
      /^claim team\/c: CDI spec .*\.json cannot be written: ENOSPC: no space left on device.*; free space on its file system$/,
      async () => undefined,
    );
  });

  test("a file in its place: the claim says so, and the driver starts all the same", async () => {
    await writeFile(driver.cdiFolder, "");
    expect(await awaken(driver)).toMatchObject({ rebuilt: [] });
    await refused(
      /^claim team\/c: CDI spec .* cannot be written: (EEXIST|ENOTDIR).*; something else is in the place of its folder; move that away$/,
      () => rm(driver.cdiFolder),
    );
  });

  test("a folder in the spec's place: the claim says so, also when it is unprepared", async () => {
    await mkdir(join(file, "deep"), { recursive: true });
    expect((await driver.prepare("c"))["c"]).toMatch(
      /cannot be written: EISDIR.*; a folder is in its place; move that away$/,
    );
    expect((await driver.unprepare("c"))["c"]).toMatch(
      /cannot be removed: .*; a folder is in its place; move that away$/,
    );
    await rm(file, { recursive: true });
    expect(await driver.unprepare("c")).toEqual({ c: "" });
    expect((await driver.prepare("c"))["c"]).toHaveLength(1);
  });
});

describe("the checkpoint", () => {
  test("on a full disk (the kernel's /dev/full): every claim of the call says so", async () => {
    await symlink("/dev/full", `${driver.checkpoint}.tmp`);
    await refused(
      /^checkpoint .*checkpoint\.json cannot be written: ENOSPC.*; free space on its file system$/,
      async () => undefined,
    );
  });

  test("with a folder in the place of its next version: every claim of the call says so", async () => {
    await mkdir(`${driver.checkpoint}.tmp`);
    await refused(/cannot be written: EISDIR.*; a folder is in its place; move that away$/, () =>
      rm(`${driver.checkpoint}.tmp`, { recursive: true }),
    );
  });
});

/** `npm run driver-faults` breaks the CDI folder 500 times; without it a slice. */
const all = process.env["KLLAMA_DRIVER_FAULTS"] === "all";
const faults = all ? 500 : 50;

/** As root, or with user namespaces: who may mount file systems of his own that nobody else sees. */
const unshare = [["-m"], ["-r", "-m"]].find(
  (flags) => spawnSync("unshare", [...flags, "mount", "-t", "tmpfs", "none", "/mnt"]).status === 0,
);

describe(unshare === undefined ? "left out, since mounting is not allowed here: real disks" : "real disks", () => {
  test.skipIf(unshare === undefined)(
    "full and read-only: each claim says so, and succeeds when they no longer are",
    async () => {
      const folder = await mkdtemp(join(tmpdir(), "kllama-disks-"));
      const child = fileURLToPath(new URL("../../../support/driver-disks-child.ts", import.meta.url));
      const { stdout } = await promisify(execFile)("unshare", [...unshare!, process.execPath, child, folder]);
      await rm(folder, { recursive: true });
      const cdiDevices = expect.arrayContaining([expect.stringMatching(/^gpu\.kllama\.ai\/claim=/)]) as string[];
      const cannot = (what: string, code: string, remedy: string) =>
        expect.stringMatching(new RegExp(`${what}: ${code}: .*; ${remedy}$`)) as string;
      const specFull = cannot("claim team/c: CDI spec .* cannot be written", "ENOSPC", "free space on its file system");
      const frozen = (name: string) =>
        cannot(`claim team/${name}: CDI spec .* cannot be written`, "EROFS", "mount its file system for writing");
      expect(JSON.parse(stdout)).toEqual({
        "both fit": { a: cdiDevices, b: cdiDevices },
        full: { c: specFull },
        "kept while full": { a: cdiDevices, b: cdiDevices },
        "left over while full": [expect.any(String), expect.any(String)],
        "room again": [{ a: "" }, { c: cdiDevices }],
        "read-only": [
          { a: frozen("a") },
          { c: cannot("CDI spec .* cannot be removed", "EROFS", "mount its file system for writing") },
        ],
        "writable again": [{ c: "" }, { a: cdiDevices }, { b: "" }],
        "checkpoint full": { c: cannot("checkpoint .* cannot be written", "ENOSPC", "free space on its file system") },
        "checkpoint's room again": { c: cdiDevices },
        specs: 2,
      });
    },
  );

  test.skipIf(unshare === undefined)(
    `the CDI folder wiped, full or read-only ${faults} times: each claim fails with the reason or succeeds, and all is right once it is put right`,
    async () => {
      const folder = await mkdtemp(join(tmpdir(), "kllama-disks-"));
      const child = fileURLToPath(new URL("../../../support/driver-cdi-child.ts", import.meta.url));
      const args = [...unshare!, process.execPath, child, folder, String(faults), String(seed)];
      const { stdout } = await promisify(execFile)("unshare", args);
      await rm(folder, { recursive: true });
      const { told, wrong } = JSON.parse(stdout) as { told: Record<string, number>; wrong: string[] };
      if (all) console.log(told);
      expect(wrong).toEqual([]);
      for (const count of Object.values(told)) expect(count).toBeGreaterThan(0);
    },
    300_000,
  );
});
