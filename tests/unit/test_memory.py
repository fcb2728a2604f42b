"""The memory table: sizes from the format, and the ratios of the replaced document."""

import pytest

from qkernels.format import FORMATS, MXFP4, NVFP4
from qkernels.memory import main, memory_rows, memory_table


def test_sizes_and_ratios_are_those_of_codes_and_block_scales():
    rows = {
        (row.n, row.k, row.format): row for row in memory_rows([(4096, 4096), (11008, 4096)], [NVFP4, MXFP4])
    }
    small = rows[4096, 4096, "nvfp4"]
    assert small.plain_bytes == 32 << 20
    assert small.bytes == (8 << 20) + (1 << 20) + 4  # codes, scales, global scale: 9.0 MB
    assert small.ratio == pytest.approx(3.556, abs=1e-3)
    assert rows[11008, 4096, "mxfp4"].ratio == pytest.approx(3.765, abs=1e-3)
    assert rows[11008, 4096, "mxfp4"].saving == pytest.approx(0.734, abs=1e-3)


def test_the_table_knows_every_format():
    rows = {row.format: row for row in memory_rows([(4096, 4096)], FORMATS.values())}
    assert rows["mxfp6_e3m2"].ratio == pytest.approx(
        16 / 6.25
    )  # six bits a code, though a tensor holds bytes
    assert rows["nvfp4_2d"].ratio == pytest.approx(16 / (4 + 8 / 256), rel=1e-6)
    assert rows["fp8_block_2d"].bytes == 4096**2 + 32 * 32 * 4
    assert rows["int4"].bytes == 4096**2 // 2 + 4096 * 32 * 4
    lines = memory_table(rows.values()).splitlines()
    assert len({len(line) for line in lines}) == 1  # names fit their column


def test_a_k_that_no_block_divides_is_refused():
    with pytest.raises(ValueError, match="K = 40 is not a multiple of the mxfp4 block 32"):
        memory_rows([(8, 40)], [MXFP4])


def test_the_command_prints_a_models_layers_and_lists_known_names(capsys):
    main(["--models", "Llama-3.3-70B", "--formats", "nvfp4"])
    assert "57344 x 8192" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--formats", "nvfp5"])
    assert "known: nvfp4" in capsys.readouterr().err
