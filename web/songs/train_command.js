// The command "Train on my songs", in ComfyUI's menu and command palette.

import { app } from "../../../scripts/app.js";
import { addStyles } from "../dom.js";
import { openTrainDialog } from "./train_dialog.js";

const ID = "SideStep.TrainOnMySongs";

app.registerExtension({
  name: "sidestep.songs",
  commands: [{
    id: ID, label: "Side-Step: Train on my songs", menubarLabel: "Train on my songs", icon: "pi pi-headphones",
    function: () => openTrainDialog(),
  }],
  menuCommands: [{ path: ["Side-Step"], commands: [ID] }],
  init: () => addStyles("./songs.css", import.meta.url),
});
