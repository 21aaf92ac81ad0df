"""An export is made and imported elsewhere, by people without scripts: the pages tell by themselves when it is done."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Visit
from tests.servers import Pipit


@pytest.mark.parametrize("scripts", [True, False])
def test_posts_are_taken_from_one_account_to_another(
    visit: Callable[..., Visit], site: Pipit, tmp_path: Path, scripts: bool
) -> None:
    kind = "scripted" if scripts else "plain"
    ada, bob = (visit(site, java_script_enabled=scripts) for _ in range(2))
    ada.register(f"ada_{kind}")
    ada.publish("one to keep")
    ada.open("/settings/account")
    ada.page.get_by_role("link", name="Export your data").click()
    ada.page.get_by_role("button", name="Make an export").click()
    ada.page.get_by_text("Your export is ready").wait_for()
    with ada.page.expect_download() as download:
        ada.page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename.startswith(f"pipit-ada_{kind}-20")
    path = tmp_path / "export.zip"
    download.value.save_as(path)
    bob.register(f"bob_{kind}")
    bob.open("/settings/account")
    bob.page.get_by_role("link", name="Import posts").click()
    bob.page.get_by_label("Choose an export").set_input_files(path)
    bob.page.get_by_role("button", name="Import").click()
    bob.page.get_by_text("1 post was imported.").wait_for()
    bob.page.get_by_role("link", name="See your posts").click()
    assert bob.page.locator(".post-body").all_inner_texts() == ["one to keep"]
