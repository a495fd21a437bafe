import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { claimObject, openScene } from "./driver.ts";

/**
 * Runs in a mount namespace of its own, on real file systems: the state folder on one of 64 KiB, the CDI folder on another
 * with room for two specs. Prints what the driver answered, one name per step.
 */

const folder = process.argv[2] ?? "";
const cdi = join(folder, "cdi");
const filler = join(folder, "filler");
const mount = (...options: string[]): void => void execFileSync("mount", options);

mount("-t", "tmpfs", "-o", "size=64k", "none", folder);
mkdirSync(cdi);
mount("-t", "tmpfs", "-o", "size=8k", "none", cdi);
const driver = await openScene("dgx-h100", { folder });
for (const [index, name] of ["a", "b", "c"].entries())
  driver.claims.set(name, claimObject(name, [`gpus gpu-${index}`]));
const told: Record<string, unknown> = {};

told["both fit"] = await driver.prepare("a", "b");
told["full"] = await driver.prepare("c");
told["kept while full"] = await driver.prepare("a", "b");
told["left over while full"] = await driver.specs();
told["room again"] = [await driver.unprepare("a"), await driver.prepare("c")];

// The mount, not the file system, whose options a user namespace may not change.
mount("-o", "remount,bind,ro", cdi);
told["read-only"] = [await driver.prepare("a"), await driver.unprepare("c")];
mount("-o", "remount,bind,rw", cdi);
told["writable again"] = [await driver.unprepare("c"), await driver.prepare("a"), await driver.unprepare("b")];

try {
  for (;;) writeFileSync(filler, "x".repeat(4096), { flag: "a" });
} catch {
  // Now the checkpoint's disk is full.
}
told["checkpoint full"] = await driver.prepare("c");
rmSync(filler);
told["checkpoint's room again"] = await driver.prepare("c");
told["specs"] = (await driver.specs()).length;
console.log(JSON.stringify(told));
process.exit(0);
