import { chmod, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { driverName } from "../../api/names.ts";
import { type DraHandlers, draServer } from "./dra-server.ts";
import type { RegistrationStatus } from "./grpc.ts";
import { registrationServer } from "./registration.ts";
import { listenUnix } from "./unix-server.ts";

/** The driver's two sockets below the kubelet's folder. */
export interface KubeletSockets {
  close(): Promise<void>;
}

/** Health streams never end by themselves. */
const closeGraceMs = 500;

/** Opens the DRA socket, then the one by which the kubelet finds it: whoever finds it may call at once. */
export async function openKubeletSockets(
  kubeletFolder: string,
  handlers: DraHandlers,
  onStatus: (status: RegistrationStatus) => void,
): Promise<KubeletSockets> {
  const folder = join(kubeletFolder, "plugins", driverName);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await chmod(folder, 0o700);
  const dra = await listenUnix(draServer(handlers), join(folder, "dra.sock"));
  const registry = join(kubeletFolder, "plugins_registry", `${driverName}-reg.sock`);
  const registration = await listenUnix(registrationServer(dra.path, onStatus), registry);
  return {
    async close() {
      // In this order: once the registration is gone the kubelet makes no more calls.
      await registration.close(closeGraceMs);
      await dra.close(closeGraceMs);
    },
  };
}
